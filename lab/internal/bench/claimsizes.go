package bench

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// ClaimSize counts the claims that got more jobs than the range before, and at most so many.
type ClaimSize struct {
	Most   int `json:"most"` // 0: the last range, which has no end
	Claims int `json:"claims"`
}

// claimSizesMetric is the histogram of an instance's /metrics.
const claimSizesMetric = "reactor_claim_jobs_bucket{"

// claimSizesOf reads the sizes of an instance's claims.
func claimSizesOf(ctx context.Context, url string) ([]ClaimSize, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	return parseClaimSizes(response.Body)
}

// parseClaimSizes reads the buckets, which count what is in those before as well.
func parseClaimSizes(in io.Reader) (sizes []ClaimSize, err error) {
	lines, before := bufio.NewScanner(in), 0
	for lines.Scan() {
		labels, ours := strings.CutPrefix(lines.Text(), claimSizesMetric)
		if !ours {
			continue
		}
		_, bound, _ := strings.Cut(labels, `le="`)
		bound, count, _ := strings.Cut(bound, `"}`)
		most := 0.0
		if bound != "+Inf" {
			if most, err = strconv.ParseFloat(bound, 64); err != nil {
				return nil, fmt.Errorf("metric %s: %w", lines.Text(), err)
			}
		}
		n, err := strconv.Atoi(strings.TrimSpace(count))
		if err != nil {
			return nil, fmt.Errorf("metric %s: %w", lines.Text(), err)
		}
		sizes, before = append(sizes, ClaimSize{int(most), n - before}), n
	}
	return sizes, lines.Err()
}

// addClaimSizes adds those of another instance, which has the same ranges.
func addClaimSizes(sum, more []ClaimSize) []ClaimSize {
	if len(sum) == 0 {
		return more
	}
	for i := range min(len(sum), len(more)) {
		sum[i].Claims += more[i].Claims
	}
	return sum
}
