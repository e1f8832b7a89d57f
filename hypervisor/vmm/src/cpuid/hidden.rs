//! Features that a run hides from its guest: `hide=smep,smap`.

use super::features::{FEATURES, HIDEABLE};
use super::masks::Place;
use core::fmt;

/// What `hide=` names, as bits of the registers in [`FEATURES`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hidden {
    masks: [u32; FEATURES.len()],
}

/// No such feature, or one whose use would not fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CannotHide<'a> {
    /// The word.
    pub name: &'a str,
}

impl fmt::Display for CannotHide<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hide={}: no feature that can be hidden; there are", self.name)?;
        for (index, name) in HIDEABLE.iter().enumerate() {
            write!(f, "{} {name}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl Hidden {
    /// Nothing is hidden.
    pub const NONE: Self = Self { masks: [0; FEATURES.len()] };

    /// Reads a list of names with commas in between.
    pub fn parse(list: &str) -> Result<Self, CannotHide<'_>> {
        let mut hidden = Self::default();
        for name in list.split(',').filter(|name| !name.is_empty()) {
            if !HIDEABLE.contains(&name) {
                return Err(CannotHide { name });
            }
            hidden.hide(name);
        }
        Ok(hidden)
    }

    /// Whether the feature at `place` is hidden.
    pub(super) const fn contains(&self, place: Place) -> bool {
        self.masks[place.register] >> place.bit & 1 == 1
    }

    /// The hidden bits of the register at `index` in [`FEATURES`].
    pub(super) const fn mask(&self, index: usize) -> u32 {
        self.masks[index]
    }

    fn hide(&mut self, name: &str) {
        for (register, mask) in FEATURES.iter().zip(&mut self.masks) {
            for row in register.features.iter().filter(|row| row.name == name) {
                *mask |= 1 << row.bit;
            }
        }
    }
}
