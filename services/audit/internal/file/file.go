// Package file keeps audit records in files of JSON lines, one record a line:
//
//	{"sequence":12,"stored":"2026-01-02T03:04:05.6Z","subject":"audit.capmgr.grant","record":{…}}
//
// record is the canonical JSON as the stream holds it, or, where what the stream holds is not
// JSON, `"damaged"` stands in its place with the bytes in base64. Files are named
// audit-<first sequence>.jsonl, so that they sort in the order of the trail, and a new one
// is begun when the last is too large or too old. Nothing is ever deleted.
//
// The last whole line is the cursor: there is no other. A line cut off by a crash is removed
// when the place is opened again and written anew. Every Append is on disk when it returns.
// One process at a time writes a place; a second is refused.
package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/solo-os/solo/services/audit/internal/backend"
	"golang.org/x/sys/unix"
)

// Options of a place.
type Options struct {
	// Dir is made when it does not exist, 0700.
	Dir string
	// MaxBytes and MaxAge are when a new file is begun; 0 means never.
	MaxBytes int64
	MaxAge   time.Duration
	// Now may be nil.
	Now func() time.Time
}

// Files is the backend.
type Files struct {
	o      Options
	dir    *os.File // locked
	file   *os.File // nil until something is written
	size   int64    // of file, whole lines
	begun  time.Time
	torn   bool // file may hold more than size bytes
	cursor uint64
}

var _ backend.Backend = (*Files)(nil)

// Open finds the cursor, and removes what a crash left half written.
func Open(o Options) (*Files, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	dir, err := os.Open(o.Dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another process writes audit files in %s: %w", o.Dir, err), dir.Close())
	}
	f := &Files{o: o, dir: dir}
	if err := f.recover(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Cursor is the last sequence on disk.
func (f *Files) Cursor() uint64 { return f.cursor }

// Close closes the current file.
func (f *Files) Close() error {
	var err error
	if f.file != nil {
		err = f.file.Close()
		f.file = nil
	}
	return errors.Join(err, f.dir.Close())
}

// recover continues the newest file that holds a whole line.
func (f *Files) recover() error {
	names, err := filepath.Glob(filepath.Join(f.o.Dir, "audit-*.jsonl"))
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range slices.Backward(names) {
		file, err := os.OpenFile(name, os.O_RDWR, 0o600)
		if err != nil {
			return err
		}
		first, last, size, err := ends(file)
		if err != nil {
			return errors.Join(fmt.Errorf("%s: %w", name, err), file.Close())
		}
		if size == 0 {
			if err := errors.Join(file.Close(), os.Remove(name)); err != nil {
				return err
			}
			continue
		}
		f.file, f.cursor, f.size, f.begun, f.torn = file, last.Sequence, size, first.Stored, true
		return f.mend()
	}
	return nil
}

// mend cuts off what stands behind the last whole line.
func (f *Files) mend() error {
	if !f.torn {
		return nil
	}
	if err := f.file.Truncate(f.size); err != nil {
		return err
	}
	if _, err := f.file.Seek(f.size, 0); err != nil {
		return err
	}
	f.torn = false
	return nil
}

// Append writes records and syncs, once a file.
func (f *Files) Append(ctx context.Context, records []backend.Record) error {
	for len(records) > 0 && records[0].Sequence <= f.cursor {
		records = records[1:]
	}
	for len(records) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := f.roll(records[0]); err != nil {
			return err
		}
		n, err := f.write(records)
		if err != nil {
			return err
		}
		records = records[n:]
	}
	return nil
}

// write puts as many records into the current file as it has room for, at least one.
func (f *Files) write(records []backend.Record) (n int, err error) {
	if err := f.mend(); err != nil {
		return 0, err
	}
	var b bytes.Buffer
	for _, r := range records {
		if n > 0 && f.full(f.size+int64(b.Len())) {
			break
		}
		if err := encode(&b, r); err != nil {
			return 0, err
		}
		n++
	}
	f.torn = true
	if _, err := f.file.Write(b.Bytes()); err != nil {
		return 0, err
	}
	if err := f.file.Sync(); err != nil {
		return 0, err
	}
	f.torn = false
	f.size += int64(b.Len())
	f.cursor = records[n-1].Sequence
	return n, nil
}

func (f *Files) full(size int64) bool { return f.o.MaxBytes > 0 && size >= f.o.MaxBytes }

// roll begins a new file where there is none, or the current one is full or old.
func (f *Files) roll(first backend.Record) error {
	if f.file != nil && !f.full(f.size) && (f.o.MaxAge == 0 || f.o.Now().Sub(f.begun) < f.o.MaxAge) {
		return nil
	}
	name := filepath.Join(f.o.Dir, fmt.Sprintf("audit-%020d.jsonl", first.Sequence))
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if err := f.dir.Sync(); err != nil {
		return errors.Join(err, file.Close())
	}
	if f.file != nil {
		if err := f.mend(); err != nil {
			return errors.Join(err, file.Close())
		}
		if err := f.file.Close(); err != nil {
			return errors.Join(err, file.Close())
		}
	}
	f.file, f.size, f.begun, f.torn = file, 0, f.o.Now(), false
	return nil
}
