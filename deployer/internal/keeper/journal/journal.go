// Package journal is an append-only file of checksummed records. It promises: a record whose Append
// returned nil is in the file whatever process dies afterwards, and with sync also when the machine
// does; after a crash at any point, Open finds every such record, in order, cuts off a torn tail, keeps
// it beside the file and says so; a failed Append leaves the file as it was. A journal has one user at a time.
//
// A record is its length and its CRC-32C, each 4 bytes little-endian, and its bytes. The checksum
// covers the length too, so that a tail of zeros is no record.
package journal

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
)

// MaxRecord bounds one record in bytes.
const MaxRecord = 64 << 20

const headerSize = 8

// ErrBroken says that an earlier failure left the file in an unknown state; it must be opened anew.
var ErrBroken = errors.New("journal: broken by an earlier failure")

// Journal is an open file. It is not safe for concurrent use.
type Journal struct {
	path   string
	file   *os.File
	size   int64
	broken bool
	buf    []byte
}

// Recovery says what Open found.
type Recovery struct {
	// Records that were replayed.
	Records int
	// TornBytes were cut off the end.
	TornBytes int64
}

// Open opens or makes a file, gives every record to replay, whose argument is only valid during the
// call, and returns the journal ready to append. An error of replay ends it.
func Open(path string, replay func(record []byte) error) (*Journal, Recovery, error) {
	var rec Recovery
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, rec, err
	}
	j := &Journal{path: path, file: f}
	if err := j.recover(&rec, replay); err != nil {
		return nil, rec, errors.Join(fmt.Errorf("journal %s: %w", path, err), f.Close())
	}
	return j, rec, nil
}

func (j *Journal) recover(rec *Recovery, replay func([]byte) error) error {
	info, err := j.file.Stat()
	if err != nil {
		return err
	}
	r := bufio.NewReaderSize(j.file, 1<<16)
	for {
		record, err := j.next(r, info.Size()-j.size)
		if err != nil {
			return err
		}
		if record == nil {
			break
		}
		if err := replay(record); err != nil {
			return fmt.Errorf("record %d at byte %d: %w", rec.Records, j.size, err)
		}
		j.size += headerSize + int64(len(record))
		rec.Records++
	}
	if rec.TornBytes = info.Size() - j.size; rec.TornBytes > 0 {
		if err := j.saveTail(rec.TornBytes); err != nil {
			return err
		}
		if err := j.file.Truncate(j.size); err != nil {
			return err
		}
	}
	_, err = j.file.Seek(j.size, io.SeekStart)
	return err
}

// saveTail keeps what is about to be cut off beside the journal, with the ending .torn: where the
// damage was not a crash's, it is all that is left of the records behind it.
func (j *Journal) saveTail(n int64) error {
	out, err := os.OpenFile(j.path+".torn", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, io.NewSectionReader(j.file, j.size, n))
	return errors.Join(err, out.Close())
}

// next returns the next whole record, or nil where the intact part ends.
func (j *Journal) next(r io.Reader, left int64) ([]byte, error) {
	var h [headerSize]byte
	if left < headerSize {
		return nil, nil
	}
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, err
	}
	n := int64(binary.LittleEndian.Uint32(h[:4]))
	if n > MaxRecord || n > left-headerSize {
		return nil, nil
	}
	if int64(cap(j.buf)) < n {
		j.buf = make([]byte, n)
	}
	b := j.buf[:n]
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	if checksum(h[:4], b) != binary.LittleEndian.Uint32(h[4:]) {
		return nil, nil
	}
	return b, nil
}

func checksum(length, b []byte) uint32 {
	t := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Checksum(length, t), t, b)
}

// Append adds a record, and with sync waits until the disk has it.
func (j *Journal) Append(record []byte, sync bool) error {
	if j.broken {
		return ErrBroken
	}
	if len(record) > MaxRecord {
		return fmt.Errorf("journal: a record of %d bytes; the bound is %d", len(record), MaxRecord)
	}
	j.buf = frame(j.buf[:0], record)
	if _, err := j.file.Write(j.buf); err != nil {
		return j.undo(err)
	}
	if sync {
		if err := j.file.Sync(); err != nil {
			// What a failed sync left on disk cannot be known.
			j.broken = true
			return err
		}
	}
	j.size += int64(len(j.buf))
	if cap(j.buf) > 1<<20 {
		j.buf = nil
	}
	return nil
}

func frame(out, record []byte) []byte {
	at := len(out)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(record)))
	out = binary.LittleEndian.AppendUint32(out, checksum(out[at:at+4], record))
	return append(out, record...)
}

// undo removes what a failed write may have left.
func (j *Journal) undo(cause error) error {
	if err := j.file.Truncate(j.size); err != nil {
		j.broken = true
		return errors.Join(cause, err)
	}
	if _, err := j.file.Seek(j.size, io.SeekStart); err != nil {
		j.broken = true
		return errors.Join(cause, err)
	}
	return cause
}

// Sync waits until the disk has every record.
func (j *Journal) Sync() error {
	if j.broken {
		return ErrBroken
	}
	if err := j.file.Sync(); err != nil {
		j.broken = true
		return err
	}
	return nil
}

// Size is the length of the file in bytes.
func (j *Journal) Size() int64 { return j.size }

// Rewrite replaces all records by those that write adds, atomically and durably: after a crash the
// file holds the old ones or the new ones. After an error the old ones are still in use.
func (j *Journal) Rewrite(write func(add func(record []byte) error) error) (err error) {
	tmp, err := os.OpenFile(j.path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, tmp.Close(), os.Remove(tmp.Name()))
		}
	}()
	w := bufio.NewWriterSize(tmp, 1<<16)
	var size int64
	var buf []byte
	add := func(record []byte) error {
		if len(record) > MaxRecord {
			return fmt.Errorf("journal: a record of %d bytes; the bound is %d", len(record), MaxRecord)
		}
		buf = frame(buf[:0], record)
		size += int64(len(buf))
		_, err := w.Write(buf)
		return err
	}
	if err := write(add); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), j.path); err != nil {
		return err
	}
	old := j.file
	j.file, j.size, j.broken = tmp, size, false
	_ = old.Close() // every record it held is in the new file
	syncDir(filepath.Dir(j.path))
	return nil
}

// syncDir makes a rename durable, where the file system can.
func syncDir(dir string) {
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync() // the rename itself has happened
		_ = d.Close()
	}
}

// Close closes the file.
func (j *Journal) Close() error { return j.file.Close() }

// Remove closes the file and deletes it.
func (j *Journal) Remove() error {
	return errors.Join(j.file.Close(), os.Remove(j.path))
}
