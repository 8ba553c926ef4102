package naming

import "sync"

// mostCached is more than the different texts that a program sends for ever. Texts that are put
// together, such as the filters of a list of jobs, could be any number; beyond this one they are
// rewritten each time.
const mostCached = 1024

// cache keeps texts that were rewritten. It is safe for concurrent use.
type cache struct {
	mu    sync.RWMutex
	texts map[string]string // guarded by mu
}

func (c *cache) get(text string, rewrite func(string) string) string {
	c.mu.RLock()
	rewritten, ok := c.texts[text]
	c.mu.RUnlock()
	if ok {
		return rewritten
	}
	rewritten = rewrite(text)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.texts == nil {
		c.texts = map[string]string{}
	}
	if len(c.texts) < mostCached {
		c.texts[text] = rewritten
	}
	return rewritten
}
