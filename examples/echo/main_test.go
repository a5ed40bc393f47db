package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
)

func TestHandler(t *testing.T) {
	s := httptest.NewServer(handler())
	defer s.Close()
	for path, want := range map[string]string{"/echo": "Hello", "/shout": "HELLO"} {
		r, err := http.Post(s.URL+path, "", strings.NewReader("Hello"))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r.Body)
		if err != nil || string(b) != want {
			t.Errorf("%s: %q %v", path, b, err)
		}
		_ = r.Body.Close()
	}
	r, err := http.Post(s.URL+"/fly", "", nil)
	if err != nil || r.StatusCode != http.StatusNotFound {
		t.Errorf("%v %v", r, err)
	}
}

func TestRunServesAndEnds(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx, socket) }()
	for {
		if c, err := net.Dial("unix", socket); err == nil {
			_ = c.Close()
			break
		}
		select {
		case err := <-done:
			t.Fatal(err)
		default:
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := run(t.Context(), ""); err == nil {
		t.Error("runs without a socket")
	}
}
