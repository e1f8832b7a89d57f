//! What callgrind writes: for each dump, how many instructions, and how many of them cleared
//! shadow tables, which is counted apart.

use crate::error::{Error, Result};

/// Part of the (mangled) name of the function that clears a line of a shadow table.
const CLEARING: &str = "clear_shadow_line";

/// The instructions of one dump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    /// All but those that cleared tables.
    pub(super) instructions: u64,
    /// Those that cleared tables.
    pub(super) clearing: u64,
}

/// Every dump in a file that callgrind wrote with `--combine-dumps=yes`, in order. (Valgrind
/// manual, "Callgrind Format Specification".)
pub(super) fn dumps(text: &str) -> Result<Vec<Counted>> {
    let mut reader = Reader::default();
    text.lines().filter_map(|line| reader.line(line).transpose()).collect()
}

/// Where a reader of the format is.
#[derive(Debug, Default)]
struct Reader {
    /// The compressed names, `(12)`, of the functions that clear.
    clearing: Vec<String>,
    /// The line belongs to one of them.
    in_clearing: bool,
    /// The next line of costs is a call's, counted where it was made.
    is_call: bool,
    cleared: u64,
}

impl Reader {
    /// Takes a line in; a dump's counts at its end.
    fn line(&mut self, line: &str) -> Result<Option<Counted>> {
        if let Some(name) = line.strip_prefix("fn=") {
            self.in_clearing = self.clears(name);
        } else if let Some(name) = line.strip_prefix("cfn=") {
            // The first mention of a name defines its number.
            self.clears(name);
        } else if line.starts_with("calls=") {
            self.is_call = true;
        } else if let Some(total) = line.strip_prefix("totals: ") {
            return self.end(total).map(Some);
        } else if line.starts_with(|c: char| c.is_ascii_digit() || "+-*".contains(c)) {
            self.cost(line)?;
        }
        Ok(None)
    }

    fn clears(&mut self, name: &str) -> bool {
        let number = name.split(' ').next().unwrap_or_default();
        if name.contains(CLEARING) && !self.clearing.iter().any(|known| known == number) {
            self.clearing.push(number.to_owned());
        }
        self.clearing.iter().any(|known| known == number)
    }

    fn cost(&mut self, line: &str) -> Result<()> {
        if std::mem::take(&mut self.is_call) || !self.in_clearing {
            return Ok(());
        }
        let cost = line.split(' ').nth(1).and_then(|word| word.parse::<u64>().ok());
        self.cleared += cost.ok_or_else(|| malformed(line))?;
        Ok(())
    }

    fn end(&mut self, total: &str) -> Result<Counted> {
        let clearing = std::mem::take(&mut self.cleared);
        self.in_clearing = false;
        let total: u64 = total.trim().parse().map_err(|_| malformed(total))?;
        let instructions = total.checked_sub(clearing).ok_or_else(|| malformed(total))?;
        Ok(Counted { instructions, clearing })
    }
}

fn malformed(what: impl std::fmt::Display) -> Error {
    Error::malformed("callgrind's output", what)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_DUMPS: &str = "\
part: 1
events: Ir
summary: 130
fn=(7) _ZN6engine5fault17h0E
3 100
cfn=(9) _ZN7machine17clear_shadow_line17h1E
calls=2 47
* 20
fn=(9)
47 20
fi=(3)
+2 10
totals: 130

part: 2
summary: 5
fn=(7)
* 5
totals: 5
";

    #[test]
    fn clearing_is_told_from_the_rest_and_calls_are_not_counted_twice() {
        let [first, second] = dumps(TWO_DUMPS).unwrap()[..] else { panic!("two dumps") };
        assert_eq!(first, Counted { instructions: 100, clearing: 30 });
        assert_eq!(second, Counted { instructions: 5, clearing: 0 });
    }

    #[test]
    fn garbled_counts_are_an_error() {
        assert!(dumps("totals: many").is_err());
        assert!(dumps("fn=(9) clear_shadow_line\n3 few\ntotals: 3").is_err());
        assert!(dumps("fn=(9) clear_shadow_line\n3 9\ntotals: 3").is_err());
    }
}
