package gate

import "maps"

// Components returns the component identities, names by id.
func (t *Table) Components() map[string]string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return maps.Clone(t.components)
}
