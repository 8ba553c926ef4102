// Package browser has the tests of the page in a real browser: Chromium shows the page of a real deployment
// while jobs fire, and is driven by its debugger.
//
// All tests share one deployment and one browser, which TestPage starts. Each has a tab with cookies of its own.
// A tab records what a page must not do: errors on the console, violations of its policy, dialogs, and requests to
// anywhere else. That is checked at the end of every test.
//
// The tests are in the lab because the browser's driver is a dependency. They have no code that programs could use.
//
// With -screenshots FOLDER, or by make screenshots, the pages are drawn instead, for docs/page.md.
package browser
