package cli

import (
	"fmt"
	"sync"
	"time"
)

// lateAfter is when something takes long enough for a reason to be given.
const lateAfter = 3 * time.Second

// progress tells that something goes on: once a second on a terminal; elsewhere one line at
// most, when it takes long for a reason that is known. Call stop before writing anything else;
// say replaces the text.
type progress struct {
	app  *app
	mu   sync.Mutex
	text string // mu
	late string // mu; why it may take long, empty for no reason
	stop func()
}

func (a *app) progress(text string) *progress {
	p := &progress{app: a, text: text}
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		p.run(end)
	}()
	p.stop = sync.OnceFunc(func() { close(end); <-done })
	return p
}

func (p *progress) run(end <-chan struct{}) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	begin, live, shown := time.Now(), terminal(p.app.Stderr), false
	for {
		select {
		case <-end:
			if live && shown {
				fmt.Fprint(p.app.Stderr, "\r\x1b[K")
			}
			return
		case <-t.C:
			text, late := p.now(time.Since(begin))
			switch {
			case live:
				fmt.Fprintf(p.app.Stderr, "\r\x1b[K%s (%s)", text, time.Since(begin).Round(time.Second))
				shown = true
			case late && !shown:
				fmt.Fprintln(p.app.Stderr, text)
				shown = true
			}
		}
	}
}

// now is what to say after a time, and whether that is why it takes so long.
func (p *progress) now(took time.Duration) (text string, late bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.late == "" || took < lateAfter {
		return p.text, false
	}
	return p.text + ": " + p.late, true
}

func (p *progress) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.text = fmt.Sprintf(format, args...)
}

// because says why it may take long.
func (p *progress) because(why string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.late = why
}
