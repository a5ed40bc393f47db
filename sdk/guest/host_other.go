//go:build !wasip1

package guest

func hostCall(string, []byte) ([]byte, error) { return nil, ErrNoHost }

func hostLog(uint32, string) error { return ErrNoHost }
