// Package bench measures Solo as its users meet it, each figure beside a baseline taken in the
// same run: bare NATS request-reply for calls and connects, os/exec for starts.
package bench

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// Row is one figure.
type Row struct {
	What     string
	N        int
	P50, P99 time.Duration
	// Base is the p50 of the baseline, 0 where there is none.
	Base     time.Duration
	BaseName string
	// Target is what the design asks for, in words.
	Target string
	// Note is a figure that is no duration.
	Note string
}

// Report collects rows.
type Report struct{ rows []Row }

// Add puts a measured row in the report. samples is sorted.
func (r *Report) Add(what string, samples []time.Duration, base time.Duration, baseName, target string) {
	r.rows = append(r.rows, Row{What: what, N: len(samples), P50: Quantile(samples, 0.5), P99: Quantile(samples, 0.99), Base: base, BaseName: baseName, Target: target})
}

// Note puts a figure that is no duration in the report.
func (r *Report) Note(what, note, target string) {
	r.rows = append(r.rows, Row{What: what, Note: note, Target: target})
}

// Quantile is the p-quantile; it sorts its argument.
func Quantile(d []time.Duration, p float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return d[int(p*float64(len(d)-1))]
}

// Print writes the table.
func (r *Report) Print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "what\tn\tp50\tp99\tbaseline (p50)\tratio\tto reach")
	for _, x := range r.rows {
		if x.Note != "" {
			fmt.Fprintf(t, "%s\t\t%s\t\t\t\t%s\n", x.What, x.Note, x.Target)
			continue
		}
		base, ratio := "", ""
		if x.Base > 0 {
			base = fmt.Sprintf("%s %s", x.BaseName, short(x.Base))
			ratio = fmt.Sprintf("%.1fx", float64(x.P50)/float64(x.Base))
		}
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\t%s\t%s\n", x.What, x.N, short(x.P50), short(x.P99), base, ratio, x.Target)
	}
	return t.Flush()
}

func short(d time.Duration) string {
	switch {
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(100 * time.Nanosecond).String()
}
