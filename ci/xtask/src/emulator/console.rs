//! Reads the image's serial console: a stream of bytes in, in any pieces; text to show, lines
//! of JSON and a verdict out.

use crate::verdict::Verdict;

/// More of one line than this is shown but not kept.
const LINE_LIMIT: usize = 64 * 1024;

/// More of the console than this is shown but not kept.
const TEXT_LIMIT: usize = 64 * 1024 * 1024;

/// What the image starts a line with that is meant for xtask and not for the reader.
const MARKS: [&[u8]; 2] = [b"verdict: ", b"json: "];

/// A line of JSON that the image marked for xtask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Marked {
    /// The line without its mark.
    pub(crate) line: String,
    /// Bytes of the console's text that came before it.
    pub(crate) at: usize,
}

/// The state of a console.
#[derive(Debug, Default)]
pub(crate) struct Console {
    /// The line so far.
    line: Vec<u8>,
    /// How much of the line has been handed out to be shown.
    shown: usize,
    text: String,
    json: Vec<Marked>,
    verdict: Option<Verdict>,
}

impl Console {
    /// Takes what has arrived and returns what of it to show: all but marked lines, which are
    /// held back from their first byte on.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut show = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            match byte {
                b'\r' => {}
                b'\n' => self.end_line(&mut show),
                _ => self.add(byte, &mut show),
            }
        }
        show
    }

    /// The stream has ended: judges a last line that has no end, and shows it.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        let mut show = Vec::new();
        if !self.line.is_empty() {
            self.end_line(&mut show);
        }
        show
    }

    /// The last verdict that was printed.
    pub(crate) fn verdict(&self) -> Option<&Verdict> {
        self.verdict.as_ref()
    }

    /// The marked lines of JSON, without their mark.
    pub(crate) fn json(&self) -> &[Marked] {
        &self.json
    }

    /// Everything that was shown, with line ends unified.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Whether `text`, if any, has come.
    pub(crate) fn has_printed(&self, text: Option<&str>) -> bool {
        text.is_some_and(|text| {
            self.text.contains(text) || String::from_utf8_lossy(&self.line).contains(text)
        })
    }

    fn add(&mut self, byte: u8, show: &mut Vec<u8>) {
        if self.line.len() >= LINE_LIMIT {
            show.push(byte);
            return;
        }
        self.line.push(byte);
        if !self.may_be_marked() {
            show.extend_from_slice(&self.line[self.shown..]);
            self.shown = self.line.len();
        }
    }

    fn may_be_marked(&self) -> bool {
        self.shown == 0
            && MARKS.iter().any(|mark| {
                let length = self.line.len().min(mark.len());
                self.line[..length] == mark[..length]
            })
    }

    fn end_line(&mut self, show: &mut Vec<u8>) {
        let line = String::from_utf8_lossy(&self.line).into_owned();
        if let Some(verdict) = Verdict::parse(&line).filter(|_| self.shown == 0) {
            self.verdict = Some(verdict);
        } else if let Some(json) = line.strip_prefix("json: ").filter(|_| self.shown == 0) {
            self.json.push(Marked { line: json.to_owned(), at: self.text.len() });
        } else {
            show.extend_from_slice(&self.line[self.shown..]);
            show.push(b'\n');
            self.keep(&line);
        }
        self.line.clear();
        self.shown = 0;
    }

    fn keep(&mut self, line: &str) {
        if self.text.len() + line.len() < TEXT_LIMIT {
            self.text.push_str(line);
            self.text.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The console after `stream` in pieces of `size` bytes, and what it showed.
    fn fed(stream: &str, size: usize) -> (Console, String) {
        let mut console = Console::default();
        let mut shown = Vec::new();
        for piece in stream.as_bytes().chunks(size) {
            shown.extend(console.feed(piece));
        }
        shown.extend(console.finish());
        (console, String::from_utf8(shown).unwrap())
    }

    #[test]
    fn a_run_is_read_the_same_in_pieces_of_any_size() {
        let stream = "boot\r\nhello\njson: {\"exits\":3}\nvery\nverdict: pass\r\n";
        for size in 1..=stream.len() {
            let (console, shown) = fed(stream, size);
            assert_eq!(shown, "boot\nhello\nvery\n", "pieces of {size}");
            let marked = Marked { line: "{\"exits\":3}".into(), at: "boot\nhello\n".len() };
            assert_eq!(console.json(), [marked]);
            assert_eq!(console.verdict(), Some(&Verdict::Pass));
        }
    }

    #[test]
    fn text_is_shown_before_its_line_has_ended() {
        let mut console = Console::default();
        assert_eq!(console.feed(b"login"), b"login");
        assert_eq!(console.feed(b": "), b": ");
    }

    #[test]
    fn a_line_that_only_starts_like_a_verdict_is_shown() {
        let (console, shown) = fed("ver\nverdict: maybe\nverdict: pass", 1);
        assert_eq!(shown, "ver\nverdict: maybe\n");
        assert_eq!(console.verdict(), Some(&Verdict::Pass));
    }

    #[test]
    fn a_verdict_in_the_middle_of_a_line_does_not_count() {
        let (console, shown) = fed("a guest says verdict: pass\n", 7);
        assert_eq!(console.verdict(), None);
        assert_eq!(shown, "a guest says verdict: pass\n");
    }

    #[test]
    fn the_last_verdict_wins() {
        let (console, _) = fed("verdict: pass\nverdict: fail status=3\n", 5);
        assert_eq!(console.verdict(), Some(&Verdict::Fail { status: 3 }));
    }

    #[test]
    fn bytes_that_are_no_text_neither_stop_nor_lose_what_follows() {
        let mut console = Console::default();
        let shown = console.feed(b"\xff\xfe\x00\nverdict: fail status=9\n");
        assert_eq!(shown, b"\xff\xfe\x00\n");
        assert_eq!(console.verdict(), Some(&Verdict::Fail { status: 9 }));
    }

    #[test]
    fn a_line_without_end_is_shown_whole_and_kept_within_bounds() {
        let mut console = Console::default();
        let endless = vec![b'x'; LINE_LIMIT + 10];
        assert_eq!(console.feed(&endless).len(), endless.len());
        assert_eq!(console.line.len(), LINE_LIMIT);
    }
}
