// Parrot is a native service that says more than it should: its environment when it starts, and
// what it is told to say. Told to die, it does.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
)

func main() {
	fmt.Println(os.Environ())
	l, err := net.Listen("unix", os.Getenv("SOLO_LISTEN"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/die" {
			fmt.Fprintln(os.Stderr, "told to die")
			os.Exit(3)
		}
		_, _ = io.Copy(w, r.Body) // a caller that has gone needs no answer
	})))
}
