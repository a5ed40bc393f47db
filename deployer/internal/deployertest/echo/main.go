// Echo is a native service for tests: it answers with what it is sent, says a line for each call, and
// ends when it is told to.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
)

func main() { os.Exit(run()) }

func run() int {
	if os.Getenv("REFUSE") != "" {
		fmt.Fprintln(os.Stderr, "echo refuses to start")
		return 3
	}
	l, err := net.Listen("unix", os.Getenv("SOLO_LISTEN"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		fmt.Printf("echo %s\n", b)
		_, _ = w.Write(b)
	})
	mux.HandleFunc("POST /exit", func(http.ResponseWriter, *http.Request) { os.Exit(7) })
	fmt.Fprintln(os.Stderr, http.Serve(l, mux))
	return 1
}
