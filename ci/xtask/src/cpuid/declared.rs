//! What `hypervisor/docs/cpuid.md` declares of each register, read from its tables.
//!
//! The page is generated, and a test of `anchorite-vmm` fails where it differs from the code; so
//! what it says is what the code says, in the words that a reader has to go by.

use crate::error::{Error, Result};

/// Where the tables are.
pub(super) const PAGE: &str = "hypervisor/docs/cpuid.md";

/// One of the registers that CPUID fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

impl Register {
    pub(super) const ALL: [Self; 4] = [Self::Eax, Self::Ebx, Self::Ecx, Self::Edx];

    fn parse(name: &str) -> Option<Self> {
        let known = Self::ALL.into_iter().zip(["EAX", "EBX", "ECX", "EDX"]);
        known.into_iter().find(|(_, known)| *known == name).map(|(register, _)| register)
    }

    pub(super) fn name(self) -> &'static str {
        ["EAX", "EBX", "ECX", "EDX"][self as usize]
    }
}

/// Leaf, subleaf, register.
pub(super) type Place = (u32, u32, Register);

/// When a feature's bit is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// Where the CPU has it and all of these hold.
    AsTheCpu(Vec<Need>),
    /// Where all of these hold, whatever the CPU has.
    Always(Vec<Need>),
    Never,
    /// It follows a bit of CR4.
    Mirrors,
}

/// A condition for showing a feature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// This feature is shown.
    Feature(String),
    /// XCR0 can have these bits.
    States(u64),
    /// The machine has a local APIC.
    LocalApic,
    /// It is up to how the CPU behaves, which CPUID does not tell.
    Behaviour,
}

/// A feature's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Feature {
    pub(super) place: Place,
    pub(super) bit: u32,
    pub(super) name: String,
    pub(super) shown: Shown,
}

/// The row of a register that holds numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) leaf: u32,
    pub(super) register: Register,
    pub(super) keep: u32,
    pub(super) set: u32,
}

/// All rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Declared {
    pub(super) features: Vec<Feature>,
    pub(super) rules: Vec<Rule>,
}

impl Declared {
    pub(super) fn read() -> Result<Self> {
        let text = std::fs::read_to_string(PAGE).map_err(Error::io(PAGE))?;
        Self::parse(&text)
    }

    /// Reads the page; a row that cannot be read is an error, not a row less.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut declared = Self::default();
        let mut place = None;
        for line in text.lines() {
            if let Some(heading) = line.strip_prefix("### ") {
                place = parse_place(heading);
            }
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let known = match (cells.as_slice(), place) {
                (["", bit, name, shown, _, ""], Some(place)) if bit.parse::<u32>().is_ok() => {
                    parse_feature(place, bit, name, shown).map(|row| declared.features.push(row))
                }
                (["", leaf, register, keep, set, _, ""], _) if leaf.starts_with("0x") => {
                    parse_rule(leaf, register, keep, set).map(|rule| declared.rules.push(rule))
                }
                _ => Some(()),
            };
            known.ok_or_else(|| Error::malformed(PAGE, format!("cannot read the row {line:?}")))?;
        }
        if declared.features.is_empty() || declared.rules.is_empty() {
            return Err(Error::malformed(PAGE, "it has no tables of features and registers"));
        }
        Ok(declared)
    }

    /// The rows of a register.
    pub(super) fn of(&self, place: Place) -> impl Iterator<Item = &Feature> {
        self.features.iter().filter(move |row| row.place == place)
    }

    pub(super) fn feature(&self, name: &str) -> Option<&Feature> {
        self.features.iter().find(|row| row.name == name)
    }
}

/// "Leaf 0x7, subleaf 0, EBX"
fn parse_place(heading: &str) -> Option<Place> {
    let mut parts = heading.split(", ");
    let leaf = hex(parts.next()?.strip_prefix("Leaf ")?)?;
    let subleaf = parts.next()?.strip_prefix("subleaf ")?.parse().ok()?;
    Some((leaf, subleaf, Register::parse(parts.next()?)?))
}

fn parse_feature(place: Place, bit: &str, name: &str, shown: &str) -> Option<Feature> {
    let needs = |shown: &str| match shown.strip_prefix(", with ") {
        Some(needs) => needs.split(" and ").map(parse_need).collect(),
        None if shown.is_empty() => Some(Vec::new()),
        None => None,
    };
    let shown = match shown {
        "never" => Shown::Never,
        _ if shown.starts_with("as CR4.") => Shown::Mirrors,
        _ => match shown.strip_prefix("as the CPU") {
            Some(rest) => Shown::AsTheCpu(needs(rest)?),
            None => Shown::Always(needs(shown.strip_prefix("always")?)?),
        },
    };
    let bit = bit.parse().ok().filter(|bit| *bit < u32::BITS)?;
    Some(Feature { place, bit, name: name.into(), shown })
}

fn parse_need(need: &str) -> Option<Need> {
    Some(match need {
        "a local APIC" | "an x2APIC" => Need::LocalApic,
        "XCR0 confined" | "a sound XSAVEC" => Need::Behaviour,
        _ => match need.strip_prefix("XCR0 bits 0x") {
            Some(bits) => Need::States(u64::from_str_radix(bits, 16).ok()?),
            None if need.contains(' ') => return None,
            None => Need::Feature(need.into()),
        },
    })
}

fn parse_rule(leaf: &str, register: &str, keep: &str, set: &str) -> Option<Rule> {
    let register = Register::parse(register)?;
    Some(Rule { leaf: hex(leaf)?, register, keep: hex(keep)?, set: hex(set)? })
}

fn hex(text: &str) -> Option<u32> {
    u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_this_checkout_can_be_read() {
        let text = include_str!("../../../../hypervisor/docs/cpuid.md");
        let declared = Declared::parse(text).unwrap();
        let avx = declared.feature("avx").unwrap();
        assert_eq!((avx.place, avx.bit), ((1, 0, Register::Ecx), 28));
        let needs = vec![Need::Feature("xsave".into()), Need::States(7)];
        assert_eq!(avx.shown, Shown::AsTheCpu(needs));
        assert_eq!(declared.feature("vmx").unwrap().shown, Shown::Never);
        assert_eq!(declared.feature("osxsave").unwrap().shown, Shown::Mirrors);
        let rule = Rule { leaf: 1, register: Register::Ebx, keep: 0xff00, set: 0x1_0000 };
        assert!(declared.rules.contains(&rule));
        for row in &declared.features {
            let (Shown::AsTheCpu(needs) | Shown::Always(needs)) = &row.shown else { continue };
            for need in needs {
                if let Need::Feature(name) = need {
                    assert!(declared.feature(name).is_some(), "{} needs {name}", row.name);
                }
            }
        }
    }

    #[test]
    fn a_row_that_cannot_be_read_is_named() {
        let page = "### Leaf 0x1, subleaf 0, ECX\n| 3 | monitor | sometimes | why |\n";
        let error = Declared::parse(page).unwrap_err().to_string();
        assert!(error.contains("monitor"), "{error}");
        assert!(Declared::parse("nothing").is_err());
    }
}
