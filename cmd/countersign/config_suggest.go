package main

// nearest returns the word that a misspelt one was probably meant to be, or
// nothing.
func nearest(word string, words []string) string {
	best, bestDistance := "", 3
	for _, w := range words {
		if d := editDistance(word, w); d < bestDistance && d < len(w) {
			best, bestDistance = w, d
		}
	}
	return best
}

// maxWord bounds the words that are compared: the cost is the product of lengths.
const maxWord = 64

// editDistance counts the letters to change, insert or remove.
func editDistance(a, b string) int {
	if len(a) > maxWord || len(b) > maxWord {
		return maxWord
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
