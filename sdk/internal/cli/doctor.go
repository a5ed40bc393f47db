package cli

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"time"

	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/sdk/agent"
	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
)

// finding is one thing the doctor looked at.
type finding struct {
	what, found string
	ok          bool
	// What to do when it is not well.
	next string
}

func (a *app) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Look for what is wrong here and say what to do",
		Args:  exactly(0, "none"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			fs := a.examine(cmd)
			ill := 0
			for _, f := range fs {
				if !f.ok {
					ill++
				}
				if err := a.tell(f); err != nil {
					return err
				}
			}
			if ill > 0 {
				fmt.Fprintf(a.Stderr, "solo: %d of %d checks failed\n", ill, len(fs))
				return exitCode(1)
			}
			return nil
		},
	}
}

func (a *app) tell(f finding) error {
	if a.output == "json" {
		s, err := structpb.NewStruct(map[string]any{"check": f.what, "ok": f.ok, "found": f.found, "next": f.next})
		if err != nil {
			return err
		}
		b, err := protojson.Marshal(s)
		if err != nil {
			return err
		}
		return a.jsonBytes(b)
	}
	mark := "ok  "
	if !f.ok {
		mark = "FAIL"
	}
	fmt.Fprintf(a.Stdout, "%s  %s: %s\n", mark, f.what, plain(f.found))
	if !f.ok {
		fmt.Fprintf(a.Stdout, "      next: %s\n", f.next)
	}
	return nil
}

func (a *app) examine(cmd *cobra.Command) []finding {
	ctx, cancel := context.WithTimeout(cmd.Context(), quick)
	defer cancel()
	out := []finding{a.examineHome(), a.examineHandle(), a.examineChain()}
	addrs, err := a.homeDir().Addresses()
	if err != nil {
		out = append(out, finding{"addresses", err.Error(), false, "remove the file and start Solo again"})
	}
	addr, _ := a.address() // the error is the finding above
	out = append(out, a.examineKernel(ctx, cmd, addr))
	if n := addrs["nats"]; n != "" {
		out = append(out, examinePort(ctx, "bus", n))
	}
	if m := addrs["metrics"]; m != "" {
		out = append(out, examineHTTP(ctx, "readiness", "http://"+m+"/readyz"))
	}
	return append(out, examineGo())
}

func (a *app) examineHome() finding {
	h := string(a.homeDir())
	st, err := os.Stat(h)
	switch {
	case err != nil:
		return finding{"home", err.Error(), false, "`solo up` makes it, or name it with --home or SOLO_HOME"}
	case st.Mode().Perm()&0o077 != 0:
		return finding{"home", fmt.Sprintf("%s is open to others (mode %04o)", h, st.Mode().Perm()), false, "chmod 700 " + quote(h)}
	}
	return finding{"home", h, true, ""}
}

// examineChain looks whether the kernel has found the record of capabilities broken.
func (a *app) examineChain() finding {
	why, next, err := a.homeDir().Closed()
	switch {
	case err != nil:
		return finding{"capabilities", err.Error(), false, "start Solo again: the kernel says what is wrong"}
	case why != "":
		return finding{"capabilities", why, false, next}
	}
	return finding{"capabilities", "the kernel has not found their record broken", true, ""}
}

func (a *app) examineHandle() finding {
	f := a.handleFile()
	seed, err := agent.ReadHandle(f)
	if err != nil {
		return finding{"handle", err.Error(), false, "name the file of your handle with --handle or SOLO_HANDLE"}
	}
	id, err := agent.ID(seed)
	if err != nil {
		return finding{"handle", err.Error(), false, "ask whoever granted it for a new one"}
	}
	return finding{"handle", f + " is " + id, true, ""}
}

func (a *app) examineKernel(ctx context.Context, cmd *cobra.Command, addr string) finding {
	f := finding{what: "gRPC"}
	err := a.client(cmd, 5*time.Second, func(_ context.Context, c *agent.Client) error {
		begin := time.Now()
		d, err := c.Describe(ctx, &solov1.DescribeCapabilityRequest{PageSize: 1})
		f.found = fmt.Sprintf("%s answers after %s; your handle has %d rules and expires %s", addr, time.Since(begin).Round(time.Microsecond), len(d.GetCapability().GetRules()), expiry(d.GetCapability().GetExpiresAt()))
		return err
	})
	if err != nil {
		f.found, f.next = err.Error(), "`solo up` starts Solo"
		if x := fault.From(err); x.Reason != fault.ReasonInternal && x.Code != codes.Unavailable {
			f.next = a.next(x)
		}
		return f
	}
	f.ok = true
	return f
}

func examinePort(ctx context.Context, what, addr string) finding {
	c, err := (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return finding{what, err.Error(), false, "look into the kernel's log"}
	}
	_ = c.Close() // nothing was sent
	return finding{what, addr + " accepts connections", true, ""}
}

func examineHTTP(ctx context.Context, what, url string) finding {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return finding{what, err.Error(), false, "look into the kernel's log"}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return finding{what, err.Error(), false, "look into the log of resmon"}
	}
	defer resp.Body.Close()
	return finding{what, url + " says " + resp.Status, resp.StatusCode == http.StatusOK, "wait a moment; if it stays, look into the kernel's log"}
}

func examineGo() finding {
	p, err := exec.LookPath("go")
	if err != nil {
		return finding{"go toolchain", "not on the PATH", false, "install Go where Solo runs; without it format go cannot be deployed, wasm and binary can"}
	}
	return finding{"go toolchain", p, true, ""}
}
