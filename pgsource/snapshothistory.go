package pgsource

import (
	"math"
	"strings"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// historyJSON is a driver.History. Its slices are a text, oldest first: sliceChars for one with jobs, and a dot for one
// without. So thirty slices are at most 420 bytes.
//
// The text of a slice is its number of jobs in four digits, and its percentiles in two each, all with base 64. Of a
// percentile the logarithm is written, in steps of half a hundredth.
type historyJSON struct {
	Until  int64  `json:"until_us"`
	Slice  int64  `json:"slice_us"`
	Slices string `json:"slices"`
}

const (
	digits64  = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_"
	jobsChars = 4
	lateChars = 2
	// sliceChars is the length of a slice with jobs.
	sliceChars = jobsChars + 5*lateChars
	noJobs     = "."
	// doubling is into how many steps a factor of two is divided.
	doubling = 128
)

// encodeHistory returns as many of the latest slices as the room has, in bytes; nil: there are none.
func encodeHistory(h driver.History, room int) *historyJSON {
	list := h.Slices[max(0, len(h.Slices)-driver.HistorySlices):]
	var texts []string
	for i := len(list) - 1; i >= 0; i-- {
		text := encodeSlice(list[i])
		if room -= len(text); room < 0 {
			break
		}
		texts = append(texts, text)
	}
	if texts == nil {
		return nil
	}
	var b strings.Builder
	for i := len(texts) - 1; i >= 0; i-- {
		b.WriteString(texts[i])
	}
	return &historyJSON{Until: int64(h.Until), Slice: h.Slice.Microseconds(), Slices: b.String()}
}

func encodeSlice(s driver.Slice) string {
	if s.Jobs <= 0 {
		return noJobs
	}
	text := number64(s.Jobs, jobsChars)
	for _, late := range []time.Duration{s.P10, s.P50, s.P90, s.P99, s.Max} {
		us := max(float64(late.Microseconds()), 1)
		text += number64(int64(math.Ceil(doubling*math.Log2(us))), lateChars)
	}
	return text
}

// number64 writes a number with so many digits. One that is too large becomes the largest.
func number64(n int64, chars int) string {
	n = min(n, 1<<(6*chars)-1)
	text := make([]byte, chars)
	for i := range text {
		text[chars-1-i] = digits64[n&63]
		n >>= 6
	}
	return string(text)
}

// decode returns an empty history for what is not one.
func (j *historyJSON) decode() (h driver.History) {
	if j == nil || j.Slice <= 0 {
		return h
	}
	h = driver.History{Until: driver.DBTime(j.Until), Slice: time.Duration(j.Slice) * time.Microsecond}
	for text := j.Slices; text != ""; {
		if rest, empty := strings.CutPrefix(text, noJobs); empty {
			h.Slices, text = append(h.Slices, driver.Slice{}), rest
			continue
		}
		if len(text) < sliceChars {
			return driver.History{}
		}
		var numbers [6]int64
		for i, width := 0, jobsChars; i < len(numbers); i, width = i+1, lateChars {
			for _, digit := range []byte(text[:width]) {
				at := strings.IndexByte(digits64, digit)
				if at < 0 {
					return driver.History{}
				}
				numbers[i] = numbers[i]<<6 | int64(at)
			}
			text = text[width:]
		}
		late := func(n int64) time.Duration {
			return time.Duration(math.Round(math.Exp2(float64(n)/doubling))) * time.Microsecond
		}
		h.Slices = append(h.Slices, driver.Slice{Jobs: numbers[0], P10: late(numbers[1]), P50: late(numbers[2]), P90: late(numbers[3]), P99: late(numbers[4]), Max: late(numbers[5])})
	}
	return h
}
