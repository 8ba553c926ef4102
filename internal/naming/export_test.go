package naming

// Cached returns how many texts are kept.
func Cached(n Names) int {
	n.texts.mu.RLock()
	defer n.texts.mu.RUnlock()
	return len(n.texts.texts)
}
