//! Texts as single words of a command line: bytes that would end the word, and `%`, are written
//! as `%` and two hexadecimal digits.

use core::fmt::{self, Write};

/// A text that prints as one word.
#[derive(Clone, Copy, Debug)]
pub struct Encoded<'a>(pub &'a str);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.bytes() {
            match byte {
                b'!'..=b'~' if byte != b'%' => f.write_char(byte.into())?,
                _ => write!(f, "%{byte:02x}")?,
            }
        }
        Ok(())
    }
}

/// The bytes that `word` stands for. A `%` without two digits stands for itself.
pub fn decoded(word: &str) -> impl Iterator<Item = u8> + '_ {
    let mut rest = word.as_bytes();
    core::iter::from_fn(move || {
        let (&first, after) = rest.split_first()?;
        if let (b'%', Some(value)) = (first, after.get(..2).and_then(hexadecimal)) {
            rest = &after[2..];
            return Some(value);
        }
        rest = after;
        Some(first)
    })
}

fn hexadecimal(digits: &[u8]) -> Option<u8> {
    let digit = |index: usize| char::from(digits[index]).to_digit(16);
    Some((digit(0)? << 4 | digit(1)?) as u8)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::{String, ToString};
    use std::vec::Vec;

    #[test]
    fn any_text_becomes_one_word_and_comes_back() {
        for text in ["", "plain", "Pass 1", "100% of\tit\n", "%20", "\u{e4}"] {
            let word = Encoded(text).to_string();
            assert!(word.bytes().all(|byte| byte.is_ascii_graphic()), "{word}");
            let bytes: Vec<u8> = decoded(&word).collect();
            assert_eq!(String::from_utf8(bytes).as_deref(), Ok(text));
        }
    }

    #[test]
    fn a_percent_sign_without_digits_is_one() {
        for word in ["%", "%2", "a%xy", "%+1"] {
            assert_eq!(decoded(word).map(char::from).collect::<String>(), word);
        }
    }
}
