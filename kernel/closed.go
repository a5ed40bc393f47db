package kernel

import (
	"encoding/json"
	"errors"
	"os"

	"github.com/solo-os/solo/bus/caps"
	"github.com/solo-os/solo/kernel/internal/home"
)

// closure is what closed.json says: why user space stays closed, and what to do.
type closure struct {
	Error string `json:"error"`
	Next  string `json:"next"`
}

// whatToDo is the way out of a broken chain.
const whatToDo = "put back the store (bus/) and caps.head from one backup, taken together; or, giving up every capability and all that was kept, start with an empty SOLO_HOME"

// noteClosed leaves word of a broken chain for whoever looks later; any other error leaves none.
func noteClosed(h *home.Home, why error) error {
	if !errors.Is(why, caps.ErrBroken) {
		return nil
	}
	b, err := json.Marshal(closure{why.Error(), whatToDo})
	if err != nil {
		return err
	}
	return home.WriteFile(h.Closed(), append(b, '\n'))
}

// noteOpen takes the word back.
func noteOpen(h *home.Home) error {
	if err := os.Remove(h.Closed()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
