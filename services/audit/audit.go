// Package audit keeps the audit trail for those who come after: it copies stream AUDIT into
// files of JSON lines, at least once and in order, and serves the trail to holders of
// `audit=read`. What components record is durable in the stream before they act; nothing
// waits for this component.
package audit

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"github.com/solo-os/solo/bus/daemon"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/proto/subject"
	"github.com/solo-os/solo/services/audit/internal/file"
	"github.com/solo-os/solo/services/audit/internal/trail"
)

const (
	// Dir is the name of the folder of audit files below the home directory.
	Dir = "audit"
	// nearEnough is how many records the files may lack when the component says that it is ready.
	nearEnough = 1000
	// lookEvery is how often it looks whether it is.
	lookEvery = 5 * time.Millisecond
	// stopTimeout bounds how long readers may go on at the end.
	stopTimeout = 5 * time.Second
)

// Config of the component.
type Config struct {
	// FileBytes and FileAge are when a new file is begun.
	FileBytes int64
	FileAge   time.Duration
}

// Command is the program solo-audit.
func Command() daemon.Command {
	c := &Config{}
	return daemon.Command{
		Component: subject.Audit,
		Summary:   "keeps the audit trail in files and serves it",
		Flags:     c.flags,
		Run:       func(ctx context.Context, p *daemon.Process) error { return Run(ctx, p, *c) },
	}
}

func (c *Config) flags(fs *flag.FlagSet, getenv func(string) string) {
	bytes, err := strconv.ParseInt(getenv("SOLO_AUDIT_FILE_BYTES"), 10, 64)
	if err != nil || bytes <= 0 {
		bytes = 64 << 20
	}
	age, err := time.ParseDuration(getenv("SOLO_AUDIT_FILE_AGE"))
	if err != nil || age <= 0 {
		age = 24 * time.Hour
	}
	fs.Int64Var(&c.FileBytes, "file-bytes", bytes, "size in bytes at which a new audit file is begun (SOLO_AUDIT_FILE_BYTES)")
	fs.DurationVar(&c.FileAge, "file-age", age, "age at which a new audit file is begun (SOLO_AUDIT_FILE_AGE)")
}

// Run copies and serves until ctx ends.
func Run(ctx context.Context, p *daemon.Process, c Config) error {
	files, err := file.Open(file.Options{Dir: filepath.Join(p.Boot.GetHome(), Dir), MaxBytes: c.FileBytes, MaxAge: c.FileAge})
	if err != nil {
		return err
	}
	copier, err := trail.NewCopier(trail.Options{JS: p.JS, Backend: files, Name: "file", Metrics: p.Metrics, Log: p.Log})
	if err != nil {
		return errors.Join(err, files.Close())
	}
	run, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- copier.Copy(run) }()
	err = serve(ctx, p, copier, ended)
	stop()
	return errors.Join(err, <-ended, files.Close())
}

// serve answers readers until ctx or the copier ends. What the copier ended with is put back.
func serve(ctx context.Context, p *daemon.Process, copier *trail.Copier, ended chan error) error {
	s, err := p.Server()
	if err != nil {
		return err
	}
	r := &trail.Reader{JS: p.JS, Log: p.Log}
	rpc.HandleStream(s, "read", r.Read)
	if err := s.Start(); err != nil {
		return err
	}
	defer func() {
		wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		s.Close(wait)
	}()
	last, err := trail.Last(ctx, p.JS)
	if err != nil {
		return err
	}
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for copier.Cursor()+nearEnough < last {
		select {
		case <-ctx.Done():
			return nil
		case err := <-ended:
			ended <- err
			return nil
		case <-look.C:
		}
	}
	if err := p.Ready(ctx, nil); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	select {
	case <-ctx.Done():
	case err := <-ended:
		ended <- err
	}
	return nil
}
