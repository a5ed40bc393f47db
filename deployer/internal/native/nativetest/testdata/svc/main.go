// Command svc is a native service with an operation for everything one can do, good and bad.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

var hoard [][]byte

func main() {
	if path := os.Getenv("SOLO_LISTEN"); path != "" {
		serve(path)
		return
	}
	in, err := io.ReadAll(os.Stdin)
	if err != nil {
		os.Exit(1)
	}
	out, err := do(os.Args[len(os.Args)-1], string(in), "")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	fmt.Print(out)
}

func serve(path string) {
	switch os.Getenv("START") {
	case "exit":
		fmt.Fprintln(os.Stderr, "told to exit")
		os.Exit(5)
	case "hang":
		time.Sleep(time.Hour)
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("listening")
	err = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Method != http.MethodPost {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		out, err := do(strings.TrimPrefix(r.URL.Path, "/"), string(body), r.Header.Get("Solo-Caller"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusTeapot)
			return
		}
		fmt.Fprint(w, out)
	}))
	fmt.Fprintln(os.Stderr, err)
}

func do(op, in, caller string) (string, error) {
	switch op {
	case "echo":
		return in, nil
	case "caller":
		return caller, nil
	case "args":
		return strings.Join(os.Args[1:], " "), nil
	case "env":
		return strings.Join(os.Environ(), " "), nil
	case "dir":
		return os.Getwd()
	case "big":
		return strings.Repeat("x", 2<<20), nil
	case "print":
		fmt.Println("out " + in)
		fmt.Fprintln(os.Stderr, "err "+in)
		return "", nil
	case "exit":
		fmt.Fprintln(os.Stderr, "last words")
		os.Exit(7)
	case "sleep":
		d, err := time.ParseDuration(in)
		time.Sleep(d)
		return in, err
	case "burn":
		d, err := time.ParseDuration(in)
		for begun := time.Now(); time.Since(begun) < d; {
			hoard = nil
		}
		return in, err
	case "hog":
		for {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = 1
			}
			hoard = append(hoard, b)
			time.Sleep(time.Millisecond)
		}
	case "child":
		cmd := exec.Command("/proc/self/exe", "sleep")
		cmd.Stdin = strings.NewReader("1h")
		if err := cmd.Start(); err != nil {
			return "", err
		}
		return fmt.Sprint(cmd.Process.Pid), nil
	}
	return "", fmt.Errorf("no operation %q", op)
}
