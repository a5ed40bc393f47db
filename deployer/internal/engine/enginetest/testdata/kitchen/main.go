// Command kitchen is a guest with an operation for everything a guest can do, good and bad.
package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/solo-os/solo/sdk/guest"
)

var (
	counter int
	hoard   [][]byte
)

func init() {
	if os.Getenv("FAIL_INIT") != "" {
		panic("told to fail")
	}
	guest.Handle("echo", func(_ context.Context, p []byte) ([]byte, error) { return p, nil })
	guest.Handle("count", func(context.Context, []byte) ([]byte, error) {
		counter++
		return strconv.AppendInt(nil, int64(counter), 10), nil
	})
	guest.Handle("caller", func(ctx context.Context, _ []byte) ([]byte, error) { return []byte(guest.Caller(ctx)), nil })
	guest.Handle("env", func(_ context.Context, p []byte) ([]byte, error) { return []byte(os.Getenv(string(p))), nil })
	guest.Handle("fail", func(_ context.Context, p []byte) ([]byte, error) { return nil, errors.New(string(p)) })
	guest.Handle("random", func(context.Context, []byte) ([]byte, error) {
		b := make([]byte, 16)
		_, err := rand.Read(b)
		return []byte(hex.EncodeToString(b)), err
	})
	guest.Handle("now", func(context.Context, []byte) ([]byte, error) {
		return strconv.AppendInt(nil, time.Now().UnixNano(), 10), nil
	})
	guest.Handle("print", func(ctx context.Context, p []byte) ([]byte, error) {
		fmt.Println("out " + string(p))
		fmt.Fprintln(os.Stderr, "err "+string(p))
		guest.Log(ctx).With("k", "v").WithGroup("g").Warn("log "+string(p), "n", 1)
		return nil, nil
	})
	guest.Handle("panic", func(_ context.Context, p []byte) ([]byte, error) { panic(string(p)) })
	guest.Handle("exit", func(context.Context, []byte) ([]byte, error) { os.Exit(7); return nil, nil })
	guest.Handle("spin", func(context.Context, []byte) ([]byte, error) {
		for n := 0; ; n++ {
			counter = n
		}
	})
	guest.Handle("sleep", func(_ context.Context, p []byte) ([]byte, error) {
		d, err := time.ParseDuration(string(p))
		time.Sleep(d)
		return p, err
	})
	guest.Handle("burn", func(_ context.Context, p []byte) ([]byte, error) {
		d, err := time.ParseDuration(string(p))
		for begun := time.Now(); time.Since(begun) < d; {
			counter++
		}
		return p, err
	})
	guest.Handle("hog", func(context.Context, []byte) ([]byte, error) {
		for {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = 1
			}
			hoard = append(hoard, b)
		}
	})
	guest.Handle("big", func(_ context.Context, p []byte) ([]byte, error) {
		n, err := strconv.Atoi(string(p))
		return make([]byte, n), err
	})
	guest.Handle("call", func(ctx context.Context, p []byte) ([]byte, error) {
		f := strings.SplitN(string(p), " ", 3)
		return guest.Call(ctx, f[0], f[1], []byte(f[2]))
	})
	guest.Handle("state", state)
	guest.Handle("incr", incr)
	guest.OnSave(func(context.Context) ([]byte, error) { return strconv.AppendInt(nil, int64(counter), 10), nil })
	guest.OnRestore(func(_ context.Context, version uint64, saved []byte) (err error) {
		if version == 0 {
			return errors.New("version 0 is unknown")
		}
		counter, err = strconv.Atoi(string(saved))
		return err
	})
}

// state runs one state operation written as words.
func state(ctx context.Context, p []byte) ([]byte, error) {
	w := strings.Split(string(p), " ")
	s := guest.State()
	opt := func(i int) []byte {
		if i >= len(w) || w[i] == "-" {
			return nil
		}
		return []byte(w[i])
	}
	switch w[0] {
	case "get":
		v, ok, err := s.Get(ctx, w[1])
		if !ok && err == nil {
			return []byte("absent"), nil
		}
		return v, err
	case "put":
		return nil, s.Put(ctx, w[1], opt(2))
	case "delete":
		return nil, s.Delete(ctx, w[1])
	case "list":
		keys, err := s.List(ctx, w[1])
		return []byte(strings.Join(keys, " ")), err
	case "cas":
		ok, err := s.CompareAndSet(ctx, w[1], opt(2), opt(3))
		return strconv.AppendBool(nil, ok), err
	case "batch":
		return nil, s.Batch(ctx, guest.Change{Key: w[1], Value: opt(2)}, guest.Change{Key: w[3], Value: opt(4)})
	}
	return nil, errors.New("unknown word")
}

// incr adds one to key n by compare-and-set.
func incr(ctx context.Context, _ []byte) ([]byte, error) {
	for {
		old, ok, err := guest.State().Get(ctx, "n")
		if err != nil {
			return nil, err
		}
		n := 0
		if ok {
			if n, err = strconv.Atoi(string(old)); err != nil {
				return nil, err
			}
		}
		next := strconv.AppendInt(nil, int64(n+1), 10)
		if swapped, err := guest.State().CompareAndSet(ctx, "n", old, next); err != nil || swapped {
			return next, err
		}
	}
}

func main() {}
