package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Cache is a directory of compiled modules: the compiler's files, and for each module an index file
// <sha256>.json with its verdict and the name and checksum of the compiler's file. Several processes
// may use it at once.
type Cache struct {
	dir string
	max int64
}

// index is what stands in an index file.
type index struct {
	Verdict *Verdict `json:"verdict"`
	// File is the compiler's file, relative to the directory.
	File string `json:"file"`
	CRC  uint32 `json:"crc32c"`
	Size int64  `json:"size"`
}

// DefaultCacheBytes bounds the cache where nothing else does.
const DefaultCacheBytes = 4 << 30

// OpenCache uses a directory, which it makes, of at most so many bytes; 0 is DefaultCacheBytes.
func OpenCache(dir string, maxBytes int64) (*Cache, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("compilation cache: %w", err)
	}
	if maxBytes <= 0 {
		maxBytes = DefaultCacheBytes
	}
	return &Cache{dir: dir, max: maxBytes}, nil
}

// Dir is the directory.
func (c *Cache) Dir() string { return c.dir }

func (c *Cache) indexPath(sha string) string { return filepath.Join(c.dir, sha+".json") }

// Lookup returns the verdict of a module whose compiled code is there and intact. What is damaged is
// deleted, and not there.
func (c *Cache) Lookup(sha string) (*Verdict, bool) {
	ix, err := c.read(sha)
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			c.Remove(sha)
		}
		return nil, false
	}
	path := filepath.Join(c.dir, ix.File)
	crc, size, err := checksum(path)
	if err != nil || crc != ix.CRC || size != ix.Size {
		c.Remove(sha)
		return nil, false
	}
	now := time.Now()
	_ = os.Chtimes(c.indexPath(sha), now, now)
	return ix.Verdict, true
}

func (c *Cache) read(sha string) (*index, error) {
	b, err := os.ReadFile(c.indexPath(sha))
	if err != nil {
		return nil, err
	}
	ix := &index{}
	if err := json.Unmarshal(b, ix); err != nil {
		return nil, err
	}
	if ix.Verdict == nil || ix.Verdict.SHA256 != sha || !filepath.IsLocal(ix.File) {
		return nil, errors.New("an index of something else")
	}
	return ix, nil
}

// Remove forgets a module.
func (c *Cache) Remove(sha string) {
	if ix, err := c.read(sha); err == nil {
		_ = os.Remove(filepath.Join(c.dir, ix.File))
	}
	_ = os.Remove(c.indexPath(sha))
}

// add moves what a compiler left in its own directory here and indexes it.
func (c *Cache) add(from string, v *Verdict) error {
	var name string
	err := filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, ".tmp") {
			return err
		}
		if name != "" {
			return fmt.Errorf("the compiler left more than one file: %s and %s", name, path)
		}
		name, err = filepath.Rel(from, path)
		return err
	})
	if err != nil {
		return err
	}
	if name == "" {
		return errors.New("the compiler left no file")
	}
	crc, size, err := checksum(filepath.Join(from, name))
	if err != nil {
		return err
	}
	target := filepath.Join(c.dir, name)
	if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(from, name), target); err != nil {
		return err
	}
	b, err := json.Marshal(index{Verdict: v, File: name, CRC: crc, Size: size})
	if err != nil {
		return err
	}
	tmp := filepath.Join(from, "index")
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, c.indexPath(v.SHA256))
}

// leftover is the age at which the directory of a compiler counts as left behind by its death.
const leftover = time.Hour

// Prune deletes the modules not used for longest until the rest fit, and what dead compilers left.
func (c *Cache) Prune() error {
	dirs, err := filepath.Glob(filepath.Join(c.dir, "compile-*"))
	if err != nil {
		return err
	}
	for _, d := range dirs {
		if info, err := os.Stat(d); err == nil && time.Since(info.ModTime()) > leftover {
			_ = os.RemoveAll(d)
		}
	}
	type entry struct {
		sha  string
		size int64
		used time.Time
	}
	names, err := filepath.Glob(filepath.Join(c.dir, "*.json"))
	if err != nil {
		return err
	}
	var list []entry
	var total int64
	for _, n := range names {
		sha := strings.TrimSuffix(filepath.Base(n), ".json")
		info, err := os.Stat(n)
		if err != nil {
			continue
		}
		ix, err := c.read(sha)
		if err != nil {
			c.Remove(sha)
			continue
		}
		list = append(list, entry{sha, ix.Size, info.ModTime()})
		total += ix.Size
	}
	slices.SortFunc(list, func(a, b entry) int { return a.used.Compare(b.used) })
	for _, e := range list {
		if total <= c.max {
			break
		}
		c.Remove(e.sha)
		total -= e.size
	}
	return nil
}

func checksum(path string) (crc uint32, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	size, err = io.Copy(h, f)
	return h.Sum32(), size, err
}
