//! What, besides its gfn, decides the contents of a shadow page.

use crate::registers::PagingMode;

/// Rights that a walk has accumulated, in the bits of [`Role::access`].
pub(crate) type Rights = u8;
/// Writes are permitted.
pub(crate) const WRITE: Rights = 1;
/// User-mode accesses are permitted.
pub(crate) const USER: Rights = 2;
/// Instruction fetches are permitted.
pub(crate) const EXEC: Rights = 4;
/// Everything.
pub(crate) const ALL_RIGHTS: Rights = WRITE | USER | EXEC;

const DIRECT: u32 = 1 << 3;
const ACCESS_SHIFT: u32 = 4;
const QUADRANT_SHIFT: u32 = 7;
const MODE_SHIFT: u32 = 9;
const NX: u32 = 1 << 12;
const WP: u32 = 1 << 13;
const SMEP_ANDNOT_WP: u32 = 1 << 14;
const SMAP_ANDNOT_WP: u32 = 1 << 15;
const PKE: u32 = 1 << 16;
const PSE: u32 = 1 << 17;
const KEY_SHIFT: u32 = 18;

/// The role of a shadow page: equal roles and equal gfns mean equal contents.
///
/// The mode stands for the size of guest entries and for what is reserved in them; PSE
/// decides what bit 7 of a two-level PDE means; PKE, whether leaves carry keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Role(u32);

/// The registers' part of a role.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RoleBits {
    pub(crate) mode: PagingMode,
    pub(crate) nx: bool,
    pub(crate) wp: bool,
    pub(crate) smep: bool,
    pub(crate) smap: bool,
    pub(crate) pke: bool,
    pub(crate) pse: bool,
}

impl Role {
    /// The role that all pages of one register setting share, at level 0 with no rights.
    pub(crate) fn base(bits: RoleBits) -> Self {
        let flag = |on: bool, bit: u32| if on { bit } else { 0 };
        Self(
            (bits.mode as u32) << MODE_SHIFT
                | flag(bits.nx, NX)
                | flag(bits.wp, WP)
                | flag(bits.smep && !bits.wp, SMEP_ANDNOT_WP)
                | flag(bits.smap && !bits.wp, SMAP_ANDNOT_WP)
                | flag(bits.pke, PKE)
                | flag(bits.pse, PSE),
        )
    }

    /// This base at `level` with inherited `access`.
    #[inline]
    pub(crate) fn at(self, level: u8, access: Rights) -> Self {
        Self(self.0 | u32::from(level) | u32::from(access) << ACCESS_SHIFT)
    }

    /// As a page without a guest table.
    #[inline]
    pub(crate) fn direct(self) -> Self {
        Self(self.0 | DIRECT)
    }

    /// As a page that splits a large guest page with protection key `key` (in its place
    /// in an entry): all its entries carry it.
    #[inline]
    pub(crate) fn keyed(self, key: u64) -> Self {
        Self(self.0 | ((key >> 59) as u32 & 0xf) << KEY_SHIFT)
    }

    /// For the part `quadrant` of a guest table that one shadow table cannot hold.
    #[inline]
    pub(crate) fn quadrant(self, quadrant: u8) -> Self {
        Self(self.0 | u32::from(quadrant & 3) << QUADRANT_SHIFT)
    }

    #[inline]
    pub(crate) fn level(self) -> u8 {
        (self.0 & 7) as u8
    }

    #[inline]
    pub(crate) fn is_direct(self) -> bool {
        self.0 & DIRECT != 0
    }

    #[inline]
    pub(crate) fn access(self) -> Rights {
        (self.0 >> ACCESS_SHIFT) as u8 & ALL_RIGHTS
    }

    #[inline]
    pub(crate) fn quadrant_of(self) -> u8 {
        (self.0 >> QUADRANT_SHIFT) as u8 & 3
    }

    #[inline]
    pub(crate) fn mode(self) -> PagingMode {
        PagingMode::ALL[((self.0 >> MODE_SHIFT) as usize & 7).min(4)]
    }

    #[inline]
    pub(crate) fn has_four_byte_entries(self) -> bool {
        self.0 >> MODE_SHIFT & 7 == PagingMode::TwoLevel as u32
    }

    #[inline]
    pub(crate) fn wp(self) -> bool {
        self.0 & WP != 0
    }

    #[inline]
    pub(crate) fn nx(self) -> bool {
        self.0 & NX != 0
    }

    #[inline]
    pub(crate) fn pke(self) -> bool {
        self.0 & PKE != 0
    }

    /// The registers' part alone.
    #[inline]
    pub(crate) fn to_base(self) -> Self {
        Self(self.0 & ((1 << KEY_SHIFT) - (1 << MODE_SHIFT)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(mode: PagingMode, on: bool) -> Role {
        let bits = RoleBits { mode, nx: on, wp: !on, smep: on, smap: on, pke: on, pse: on };
        Role::base(bits)
    }

    #[test]
    fn every_part_of_a_role_is_kept_apart() {
        for mode in PagingMode::ALL {
            for on in [false, true] {
                let role = base(mode, on).at(5, WRITE | EXEC).quadrant(3).keyed(0xf << 59);
                assert_eq!((role.level(), role.access()), (5, WRITE | EXEC));
                assert_eq!((role.mode(), role.quadrant_of()), (mode, 3));
                assert_eq!((role.nx(), role.wp(), role.pke()), (on, !on, on));
                assert!(!role.is_direct() && role.direct().is_direct());
                assert_eq!(role.direct().to_base(), base(mode, on));
            }
        }
    }

    #[test]
    fn smep_and_smap_matter_only_without_write_protection() {
        let with = |smep, wp| {
            let mode = PagingMode::FourLevel;
            Role::base(RoleBits { mode, nx: true, wp, smep, smap: smep, pke: false, pse: false })
        };
        assert_eq!(with(true, true), with(false, true));
        assert_ne!(with(true, false), with(false, false));
    }
}
