package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nkeys"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"github.com/solo-os/solo/test/world"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Bench is one run.
type Bench struct {
	W        *world.World
	Examples string
	Report   Report

	base   Baseline
	root   *world.Client
	seed   string
	dir    string
	module string // SHA-256 of the WASM module
	native string
}

// Run measures everything; say hears what is being measured.
func (b *Bench) Run(ctx context.Context, say func(string)) error {
	for _, s := range []struct {
		name string
		f    func(context.Context) error
	}{
		{"start", b.start},
		{"code", b.code},
		{"deploys", b.deploys},
		{"calls", b.calls},
		{"load", b.load},
		{"capabilities", b.capabilities},
		{"a crowd", b.crowd},
		{"restarts", b.restarts},
		{"memory", b.memory},
	} {
		say(s.name)
		if err := s.f(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

func (b *Bench) start(ctx context.Context) (err error) {
	if b.base, err = Measure(ctx, b.W.Bin("solo"), "--version"); err != nil {
		return err
	}
	var ready []time.Duration
	for range 3 {
		if err := b.W.Stop(ctx); err != nil {
			return err
		}
		took, err := b.W.Start(ctx)
		if err != nil {
			return err
		}
		ready = append(ready, took)
	}
	b.Report.Add("start of all of Solo to ready", ready, b.base.Exec, "os/exec", "<= 1.5 s")
	if b.seed, err = world.Handle(filepath.Join(b.W.Home(), "root.nk")); err != nil {
		return err
	}
	b.root, err = b.W.Client(b.seed)
	return err
}

func (b *Bench) code(ctx context.Context) error {
	b.dir = filepath.Join(b.W.Home(), "bench")
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		return err
	}
	wasm := filepath.Join(b.dir, "wordcount.wasm")
	b.native = filepath.Join(b.dir, "echo")
	for _, c := range []struct {
		dir  string
		env  []string
		args []string
	}{
		{"wordcount", []string{"GOOS=wasip1", "GOARCH=wasm"}, []string{"-buildmode=c-shared", "-o", wasm}},
		{"echo", nil, []string{"-o", b.native}},
	} {
		cmd := exec.CommandContext(ctx, "go", append(append([]string{"build", "-trimpath"}, c.args...), ".")...)
		cmd.Dir = filepath.Join(b.Examples, c.dir)
		cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0"), c.env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("building %s: %w: %s", c.dir, err, out)
		}
	}
	code, err := os.ReadFile(wasm)
	if err != nil {
		return err
	}
	r, err := b.root.Deploy(ctx, &solov1.DeployRequest{
		Manifest: &solov1.Manifest{Name: "bench/words", Format: solov1.Format_FORMAT_WASM},
		Code:     &solov1.Code{Kind: &solov1.Code_Archive{Archive: code}},
	})
	if err != nil {
		return err
	}
	b.module = r.Service.CodeSha256
	return nil
}

// deployed deploys and waits for the first answer.
func (b *Bench) deployed(ctx context.Context, m *solov1.Manifest, code *solov1.Code, op string) error {
	if _, err := b.root.Deploy(ctx, &solov1.DeployRequest{Manifest: m, Code: code}); err != nil {
		return err
	}
	_, err := b.root.Call(ctx, &solov1.CallRequest{Service: m.Name, Op: op, Body: &solov1.CallRequest_Text{Text: "one two"}})
	return err
}

func (b *Bench) deploys(ctx context.Context) error {
	sha := func(s string) *solov1.Code { return &solov1.Code{Kind: &solov1.Code_Sha256{Sha256: s}} }
	n := 0
	loaded, err := Repeat(ctx, 40, func(ctx context.Context) error {
		n++
		return b.deployed(ctx, &solov1.Manifest{Name: fmt.Sprintf("bench/w%d", n), Format: solov1.Format_FORMAT_WASM}, sha(b.module), "count")
	})
	if err != nil {
		return err
	}
	b.Report.Add("deploy to first answer, module loaded", loaded, b.base.Exec, "os/exec", "p50 <= 5 ms, p99 <= 15 ms")

	bin, err := os.ReadFile(b.native)
	if err != nil {
		return err
	}
	up, err := b.root.UploadArtifact(ctx)
	if err != nil {
		return err
	}
	for len(bin) > 0 {
		c := bin[:min(len(bin), 1<<20)]
		bin = bin[len(c):]
		if err := up.Send(&solov1.UploadArtifactRequest{Chunk: c}); err != nil {
			return err
		}
	}
	art, err := up.CloseAndRecv()
	if err != nil {
		return err
	}
	n = 0
	native, err := Repeat(ctx, 20, func(ctx context.Context) error {
		n++
		return b.deployed(ctx, &solov1.Manifest{Name: fmt.Sprintf("bench/n%d", n), Format: solov1.Format_FORMAT_BINARY}, sha(art.Sha256), "echo")
	})
	if err != nil {
		return err
	}
	b.Report.Add("deploy to first answer, native binary", native, b.base.Exec, "os/exec", "p99 <= 40 ms")

	src, err := os.ReadFile(filepath.Join(b.Examples, "counter", "main.go"))
	if err != nil {
		return err
	}
	source := func(text string) *solov1.Code {
		return &solov1.Code{Kind: &solov1.Code_Files{Files: &solov1.Files{Files: map[string][]byte{"main.go": []byte(text)}}}}
	}
	n = 0
	// The build cache warms with the first.
	if err := b.deployed(ctx, &solov1.Manifest{Name: "bench/g", Format: solov1.Format_FORMAT_GO_SOURCE}, source(string(src)), "get"); err != nil {
		return err
	}
	fresh, err := Repeat(ctx, 10, func(ctx context.Context) error {
		n++
		return b.deployed(ctx, &solov1.Manifest{Name: fmt.Sprintf("bench/f%d", n), Format: solov1.Format_FORMAT_GO_SOURCE},
			source(string(src)+fmt.Sprintf("\nconst version = %d\n", n)), "get")
	})
	if err != nil {
		return err
	}
	b.Report.Add("Go source to first answer, new, warm build cache", fresh, 0, "", "<= 1.5 s")
	n = 0
	same, err := Repeat(ctx, 20, func(ctx context.Context) error {
		n++
		return b.deployed(ctx, &solov1.Manifest{Name: fmt.Sprintf("bench/u%d", n), Format: solov1.Format_FORMAT_GO_SOURCE}, source(string(src)), "get")
	})
	if err != nil {
		return err
	}
	b.Report.Add("Go source to first answer, unchanged", same, 0, "", "p99 <= 100 ms")
	return nil
}

func (b *Bench) calls(ctx context.Context) error {
	raw, err := b.W.Raw(ctx, b.seed)
	if err != nil {
		return err
	}
	defer raw.Close()
	words := subject.Call(subject.Service{Namespace: "bench", Name: "words"}, "count", raw.ID)
	bus, err := Repeat(ctx, 3000, func(ctx context.Context) error {
		_, err := raw.RequestWithContext(ctx, words, []byte("hello"))
		return err
	})
	if err != nil {
		return err
	}
	b.Report.Add("call over the bus, WASM", bus, b.base.Request, "bare NATS", "p50 <= 120 us")
	call := &solov1.CallRequest{Service: "bench/words", Op: "count", Body: &solov1.CallRequest_Text{Text: "hello"}}
	rpc, err := Repeat(ctx, 2000, func(ctx context.Context) error {
		_, err := b.root.Call(ctx, call)
		return err
	})
	if err != nil {
		return err
	}
	b.Report.Add("call over gRPC, WASM", rpc, b.base.Request, "bare NATS", "")
	connect, err := Repeat(ctx, 200, func(ctx context.Context) error {
		r, err := b.W.Raw(ctx, b.seed)
		if err == nil {
			r.Close()
		}
		return err
	})
	if err != nil {
		return err
	}
	b.Report.Add("connect with a handle", connect, b.base.Connect, "bare NATS", "p50 <= 1 ms")
	return nil
}

// load is many concurrent clients of the gateway, and of the bus.
func (b *Bench) load(ctx context.Context) error {
	const clients, each = 64, 300
	for _, door := range []string{"gRPC", "bus"} {
		var mu sync.Mutex
		var all []time.Duration
		var failed error
		var wg sync.WaitGroup
		begin := time.Now()
		for range clients {
			wg.Go(func() {
				d, err := b.client(ctx, door, each)
				mu.Lock()
				defer mu.Unlock()
				all = append(all, d...)
				if err != nil {
					failed = err
				}
			})
		}
		wg.Wait()
		took := time.Since(begin)
		if failed != nil {
			return failed
		}
		b.Report.Add(fmt.Sprintf("%d concurrent clients, %s", clients, door), all, 0, "", "")
		b.Report.Note("  calls a second", fmt.Sprintf("%.0f", float64(clients*each)/took.Seconds()), map[string]string{"bus": ">= 40,000"}[door])
	}
	return nil
}

func (b *Bench) client(ctx context.Context, door string, n int) ([]time.Duration, error) {
	if door == "gRPC" {
		c, err := b.W.Client(b.seed)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		return Repeat(ctx, n, func(ctx context.Context) error {
			_, err := c.Call(ctx, &solov1.CallRequest{Service: "bench/words", Op: "count", Body: &solov1.CallRequest_Text{Text: "hello"}})
			return err
		})
	}
	raw, err := b.W.Raw(ctx, b.seed)
	if err != nil {
		return nil, err
	}
	defer raw.Close()
	words := subject.Call(subject.Service{Namespace: "bench", Name: "words"}, "count", raw.ID)
	return Repeat(ctx, n, func(ctx context.Context) error {
		_, err := raw.RequestWithContext(ctx, words, []byte("hello"))
		return err
	})
}

func (b *Bench) capabilities(ctx context.Context) error {
	var ids, seeds []string
	grant, err := Repeat(ctx, 200, func(ctx context.Context) error {
		r, err := b.root.GrantCapability(ctx, &solov1.GrantCapabilityRequest{Rules: []string{"svc:bench/words=call:count"}, Ttl: durationpb.New(time.Hour)})
		if err != nil {
			return err
		}
		ids, seeds = append(ids, r.Capability.Id), append(seeds, r.Handle)
		return nil
	})
	if err != nil {
		return err
	}
	b.Report.Add("grant", grant, 0, "", "p50 <= 5 ms")
	var revoke []time.Duration
	for i := range 100 {
		raw, err := b.W.Raw(ctx, seeds[i])
		if err != nil {
			return err
		}
		begin := time.Now()
		r, err := b.root.RevokeCapability(ctx, &solov1.RevokeCapabilityRequest{Id: ids[i]})
		if err != nil {
			return err
		}
		revoke = append(revoke, time.Since(begin))
		if r.ConnectionsCut != 1 {
			return fmt.Errorf("%d connections cut", r.ConnectionsCut)
		}
		raw.Close()
	}
	b.Report.Add("revoke, a live connection cut", revoke, 0, "", "p99 <= 50 ms")
	if _, err := nkeys.FromSeed([]byte(seeds[0])); err != nil {
		return fmt.Errorf("the handle is none: %w", err)
	}
	return nil
}

func (b *Bench) restarts(ctx context.Context) error {
	for _, name := range []string{"bench/words", "bench/n1"} {
		op, target := "count", "p50 <= 5 ms"
		if strings.HasPrefix(name, "bench/n") {
			op, target = "echo", "p50 <= 30 ms"
		}
		again, err := Repeat(ctx, 20, func(ctx context.Context) error {
			st, err := b.root.Status(ctx, &solov1.StatusRequest{Service: name})
			if err != nil {
				return err
			}
			if _, err := b.root.Kill(ctx, &solov1.KillRequest{Service: name, Instance: st.Service.Instances[0].Id, GracePeriod: durationpb.New(0)}); err != nil {
				return err
			}
			return world.Until(ctx, "it answers again", func() (bool, error) {
				_, err := b.root.Call(ctx, &solov1.CallRequest{Service: name, Op: op, Body: &solov1.CallRequest_Text{Text: "x"}})
				return err == nil, nil
			})
		})
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		b.Report.Add("killed instance answers again, "+op, again, b.base.Exec, "os/exec", target)
	}
	return nil
}

func (b *Bench) memory(ctx context.Context) error {
	rss := func() (all, runners uint64, n int, err error) {
		ps, err := b.W.Processes()
		for _, p := range ps {
			all += p.RSS
			if p.Name == "solo-runner" {
				runners += p.RSS
			}
			if strings.HasPrefix(p.Name, "solo-") {
				n++
			}
		}
		return all, runners, n, err
	}
	const replicas = 200
	_, before, _, err := rss()
	if err != nil {
		return err
	}
	_, err = b.root.Deploy(ctx, &solov1.DeployRequest{
		Manifest: &solov1.Manifest{Name: "bench/many", Format: solov1.Format_FORMAT_WASM, Replicas: replicas},
		Code:     &solov1.Code{Kind: &solov1.Code_Sha256{Sha256: b.module}},
	})
	if err != nil {
		return err
	}
	_, after, _, err := rss()
	if err != nil {
		return err
	}
	b.Report.Note("resident memory of one more idle instance (Go guest)", fmt.Sprintf("%.0f KiB", float64(after-before)/replicas/1024), "<= 150 KiB")

	// The idle system is a fresh one.
	if err := b.W.Stop(ctx); err != nil {
		return err
	}
	idle, err := world.New(world.Options{Bin: filepath.Dir(b.W.Bin("solo")), Home: b.dir})
	if err != nil {
		return err
	}
	b.W = idle
	if _, err := idle.Start(ctx); err != nil {
		return err
	}
	all, _, n, err := rss()
	if err != nil {
		return err
	}
	b.Report.Note(fmt.Sprintf("resident memory of the idle system (%d processes)", n), fmt.Sprintf("%.0f MiB", float64(all)/(1<<20)), "<= 250 MiB")
	return nil
}
