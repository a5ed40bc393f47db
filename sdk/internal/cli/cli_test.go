package cli_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/solo-os/solo/sdk/agent"
	"github.com/solo-os/solo/sdk/internal/cli"
	"github.com/solo-os/solo/sdk/internal/standin"
)

// Every script has a fresh stand-in at $ADDR and a home with an operator's handle. Commands:
//
//	solo [<FILE] ARGS...   runs the command line; `! solo` wants exit code 1
//	misuse ARGS...         the same, and wants exit code 2
//	fresh NAME             a handle in NAME.nk, its id in $NAME_ID
//	blob SIZE FILE         a file of zeros behind the head of a WASM module
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			home := filepath.Join(e.WorkDir, "home")
			if err := os.MkdirAll(filepath.Join(home, "run"), 0o700); err != nil {
				return err
			}
			h, id, err := agent.NewHandle()
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(home, "root.nk"), []byte(h+"\n"), 0o600); err != nil {
				return err
			}
			s := standin.Start(e.T().(testing.TB))
			e.Setenv("ADDR", s.Addr)
			e.Setenv("ROOT_ID", id)
			e.Setenv("SOLO_HOME", home)
			e.Setenv("TZ", "UTC")
			return os.WriteFile(filepath.Join(home, "run", "addresses.json"), []byte(`{"grpc": "`+s.Addr+`", "nats": "127.0.0.1:4222"}`), 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"solo": func(ts *testscript.TestScript, neg bool, args []string) {
				want := 0
				if neg {
					want = 1
				}
				run(ts, want, args)
			},
			"misuse": func(ts *testscript.TestScript, _ bool, args []string) { run(ts, 2, args) },
			"fresh": func(ts *testscript.TestScript, _ bool, args []string) {
				h, id, err := agent.NewHandle()
				ts.Check(err)
				ts.Check(os.WriteFile(ts.MkAbs(args[0]+".nk"), []byte(h), 0o600))
				ts.Setenv(strings.ToUpper(args[0])+"_ID", id)
				ts.Setenv(strings.ToUpper(args[0])+"_HANDLE", h)
			},
			"blob": func(ts *testscript.TestScript, _ bool, args []string) {
				n := map[string]int{"small": 1 << 10, "large": 5 << 20}[args[0]]
				ts.Check(os.WriteFile(ts.MkAbs(args[1]), append([]byte("\x00asm"), make([]byte, n)...), 0o600))
			},
			"mode": func(ts *testscript.TestScript, _ bool, args []string) {
				st, err := os.Stat(ts.MkAbs(args[1]))
				ts.Check(err)
				if got := st.Mode().String(); got != args[0] {
					ts.Fatalf("%s has mode %s", args[1], got)
				}
			},
		},
	})
}

func run(ts *testscript.TestScript, want int, args []string) {
	in := ""
	if len(args) > 0 && strings.HasPrefix(args[0], "<") {
		in, args = ts.ReadFile(args[0][1:]), args[1:]
	}
	var out, errs bytes.Buffer
	code := cli.Run(context.Background(), args, cli.Env{
		Dir: ts.MkAbs("."), Getenv: ts.Getenv, Stdin: strings.NewReader(in), Stdout: &out, Stderr: &errs,
	})
	_, _ = ts.Stdout().Write(out.Bytes())  // testscript's own buffers
	_, _ = ts.Stderr().Write(errs.Bytes()) // testscript's own buffers
	if code != want {
		ts.Fatalf("exit code %d, want %d\n%s%s", code, want, out.String(), errs.String())
	}
}
