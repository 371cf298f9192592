package kv

// Shed drops half of what is in memory; all of it is still in the bucket. It is
// for a process that runs out of memory, where which half it is matters little.
func (c *Cache) Shed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	left := len(c.local.entries) - len(c.local.entries)/2
	for key := range c.local.entries {
		if left == 0 {
			return
		}
		c.local.remove(key)
		left--
	}
}
