// Package home knows where Solo keeps its things on this machine: the addresses in use and
// the operator's handle, below SOLO_HOME.
package home

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Dir is a SOLO_HOME.
type Dir string

// Default is where Solo lives when nothing says otherwise, relative to the working directory.
const Default = ".solo"

// Handle is the file of the first operator's handle.
func (d Dir) Handle() string { return filepath.Join(string(d), "root.nk") }

// AddressFile is where a running Solo says where it listens.
func (d Dir) AddressFile() string { return filepath.Join(string(d), "run", "addresses.json") }

// Addresses reads where Solo listens, by name: grpc, nats, http, metrics. It is empty when
// Solo does not run here.
func (d Dir) Addresses() (map[string]string, error) {
	b, err := os.ReadFile(d.AddressFile())
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]string{}, nil
	}
	if err != nil {
		return nil, err
	}
	m := map[string]string{}
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("%s: %w", d.AddressFile(), err)
	}
	return m, nil
}

// Closed reads why the kernel keeps user space closed, and what to do; both are empty while it does not.
func (d Dir) Closed() (why, next string, err error) {
	b, err := os.ReadFile(filepath.Join(string(d), "run", "closed.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", "", nil
	}
	if err != nil {
		return "", "", err
	}
	var c struct{ Error, Next string }
	if err := json.Unmarshal(b, &c); err != nil {
		return "", "", err
	}
	return c.Error, c.Next, nil
}
