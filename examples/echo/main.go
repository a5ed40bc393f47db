// Echo is a native service: any static program that serves HTTP on the Unix socket named by
// SOLO_LISTEN. A call is POST /<op> with the payload as body.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, os.Getenv("SOLO_LISTEN")); err != nil {
		fmt.Fprintln(os.Stderr, "echo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, socket string) error {
	if socket == "" {
		return errors.New("SOLO_LISTEN is not set: Solo starts this program")
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	s := &http.Server{Handler: handler(), ReadHeaderTimeout: 5 * time.Second}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	fmt.Println("echo listens")
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return s.Shutdown(end)
}

func handler() http.Handler {
	mux := http.NewServeMux()
	answer := func(f func(string) string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			_, _ = io.WriteString(w, f(string(b))) // a caller that has gone needs no answer
		}
	}
	mux.Handle("POST /echo", answer(func(s string) string { return s }))
	mux.Handle("POST /shout", answer(strings.ToUpper))
	return mux
}
