// Package capmgr is the capability manager: it alone appends to the chain of capabilities
// (stream CAPS), and answers when a change is in force at the fence and at every gate. It
// grants, revokes, describes and explains for holders, and gives services their rights for
// the deployer. It does not begin on a chain that does not verify.
package capmgr

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"sync"
	"time"

	"github.com/solo-os/solo/bus/caps"
	"github.com/solo-os/solo/bus/daemon"
	"github.com/solo-os/solo/bus/idem"
	"github.com/solo-os/solo/capmgr/internal/auditor"
	"github.com/solo-os/solo/capmgr/internal/authority"
	"github.com/solo-os/solo/capmgr/internal/ledger"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	"github.com/solo-os/solo/proto/subject"
)

// HeadFile is the name of the chain's signed head below the home directory.
const HeadFile = "caps.head"

// stopTimeout bounds how long requests under way may go on at the end.
const stopTimeout = 10 * time.Second

// Command is the program solo-capmgr.
func Command() daemon.Command {
	return daemon.Command{
		Component: subject.Capmgr,
		Summary:   "grants, revokes and explains capabilities; the only writer of their chain",
		Run:       Run,
	}
}

// Run verifies the chain, brings the fence up to it, and serves until ctx ends.
func Run(ctx context.Context, p *daemon.Process) error {
	l, err := ledger.Open(ctx, ledger.Options{
		JS: p.JS, ChainSeed: p.Boot.GetChainSeed(), RootID: p.Boot.GetRootId(), Log: p.Log,
		HeadPath: filepath.Join(p.Boot.GetHome(), HeadFile), FenceSequence: p.Table.Sequence(), Lead: p.Table.Lead(),
		Fence: func(ctx context.Context, r *kernelv1.FenceApplyRequest) (*kernelv1.FenceApplyResponse, error) {
			resp := &kernelv1.FenceApplyResponse{}
			return resp, p.Fence(ctx, subject.FenceApply, r, resp)
		},
	})
	if errors.Is(err, caps.ErrBroken) {
		return fmt.Errorf("capabilities stay closed: %w; run `solo doctor`, and bring back the store that belongs to this home", err)
	}
	if err != nil {
		return err
	}
	// The ledger works until every request has its answer, so longer than ctx, though not for
	// ever where the fence is away.
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	last := time.AfterFunc(math.MaxInt64, stop)
	defer last.Stop()
	defer context.AfterFunc(ctx, func() { last.Reset(stopTimeout) })()
	ended := make(chan error, 1)
	go func() { ended <- l.Run(run) }()
	err = serve(ctx, p, l, ended)
	stop()
	return errors.Join(err, <-ended)
}

// serve answers until ctx or the ledger ends. What the ledger ended with is put back.
func serve(ctx context.Context, p *daemon.Process, l *ledger.Ledger, ended chan error) error {
	if err := l.Ready(ctx); err != nil {
		return err
	}
	requests, err := idem.Open(ctx, p.JS)
	if err != nil {
		return err
	}
	readers := auditor.New(p.JS, p.Table, p.Log)
	a, err := authority.New(authority.Options{
		Ledger: l, Gate: p.Table, Audit: p.Audit, Requests: requests, Metrics: p.Metrics, Log: p.Log, Died: readers.Died,
	})
	if err != nil {
		return err
	}
	s, err := p.Server()
	if err != nil {
		return err
	}
	a.Serve(s)
	readers.Serve(s)
	if err := s.Start(); err != nil {
		return err
	}
	defer func() {
		wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		s.Close(wait)
	}()
	sweeping, stop := context.WithCancel(ctx)
	var swept sync.WaitGroup
	defer func() { stop(); swept.Wait() }()
	swept.Go(func() { readers.Run(sweeping) })
	if err := p.Ready(ctx, nil); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
	case err := <-ended:
		ended <- err
	}
	return nil
}
