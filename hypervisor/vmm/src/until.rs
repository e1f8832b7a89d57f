//! A text whose appearance in what the guest prints ends the run.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// The text, and the last bytes printed.
#[derive(Clone, Debug)]
pub struct Until {
    text: Vec<u8>,
    printed: VecDeque<u8>,
}

impl Until {
    /// Waits for `text`; an empty one never appears.
    pub fn new(text: impl IntoIterator<Item = u8>) -> Self {
        let text: Vec<u8> = text.into_iter().collect();
        let printed = VecDeque::with_capacity(text.len() + 1);
        Self { text, printed }
    }

    /// Takes the next byte printed; true once it completes the text.
    pub fn completes(&mut self, byte: u8) -> bool {
        self.printed.push_back(byte);
        if self.printed.len() > self.text.len() {
            self.printed.pop_front();
        }
        self.text.last() == Some(&byte) && self.printed.iter().eq(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(text: &str, printed: &str) -> Option<usize> {
        let mut until = Until::new(text.bytes());
        printed.bytes().position(|byte| until.completes(byte))
    }

    #[test]
    fn the_text_is_found_wherever_it_begins() {
        assert_eq!(position("abc", "abc"), Some(2));
        assert_eq!(position("aab", "aaaab"), Some(4), "after a false start");
        assert_eq!(position("abab", "xabaxabab"), Some(8));
        assert_eq!(position("abc", "ab"), None);
        assert_eq!(position("abc", "acb"), None);
        assert_eq!(position("", "anything"), None);
    }
}
