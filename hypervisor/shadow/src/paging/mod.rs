//! The guest's paging modes: one type each, behind one trait of constants.

pub(crate) mod entry;
mod five_level;
mod four_level;
mod pae;
mod two_level;

pub(crate) use five_level::FiveLevel;
pub(crate) use four_level::FourLevel;
pub(crate) use pae::Pae;
pub(crate) use two_level::TwoLevel;

use anchorite_addr::{Gva, Hpa};

use crate::access::{Access, AccessKind};
use crate::config::Config;
use crate::memory::GuestMemory;
use crate::registers::{Cr0, Cr4, Efer, PagingMode, RegisterFault, Registers};
use crate::role::{Rights, Role, RoleBits, USER};
use entry::{LARGE, NX, PRESENT};

/// The format of one paging mode's tables.
pub(crate) trait GuestFormat {
    /// Levels of tables in memory, PDPTE registers apart.
    const LEVELS: u8;
    /// log2 of an entry's bytes.
    const ENTRY_SHIFT: u32;
    /// log2 of a table's entries.
    const INDEX_BITS: u32;
    /// The address bits of an entry that points at a table or maps 4 KiB.
    const ADDRESS: u64;
    /// Whether PDPTE registers stand above the tables.
    const PDPTES: bool;

    /// Reads an entry.
    fn read<M: GuestMemory>(memory: &M, at: Hpa) -> u64;

    /// Shows `look` eight entries with their numbers, the first at a multiple of their size.
    fn each_of_eight<M: GuestMemory>(memory: &M, at: Hpa, look: impl FnMut(u64, u64));

    /// Replaces an entry if it did not change.
    fn compare_exchange<M: GuestMemory>(memory: &mut M, at: Hpa, old: u64, new: u64) -> bool;

    /// The first frame of the large page that `entry` at `level` maps.
    fn large_frame(entry: u64, level: u8) -> u64;

    /// Log2 of the frames that an entry at `level` covers.
    #[inline]
    fn cover(level: u8) -> u32 {
        Self::INDEX_BITS * u32::from(level - 1)
    }

    /// The index of `gva` in a table at `level`.
    #[inline]
    fn index(gva: Gva, level: u8) -> u64 {
        gva.as_u64() >> (12 + Self::cover(level)) & ((1 << Self::INDEX_BITS) - 1)
    }
}

/// Implements [`GuestFormat`] for tables of 512 8-byte entries.
macro_rules! eight_byte_format {
    ($name:ident, $levels:literal, $pdptes:literal) => {
        impl $crate::paging::GuestFormat for $name {
            const LEVELS: u8 = $levels;
            const ENTRY_SHIFT: u32 = 3;
            const INDEX_BITS: u32 = 9;
            const ADDRESS: u64 = $crate::paging::entry::FRAME;
            const PDPTES: bool = $pdptes;

            #[inline]
            fn read<M: $crate::memory::GuestMemory>(memory: &M, at: anchorite_addr::Hpa) -> u64 {
                memory.read_u64(at)
            }

            #[inline]
            fn each_of_eight<M: $crate::memory::GuestMemory>(
                memory: &M,
                at: anchorite_addr::Hpa,
                look: impl FnMut(u64, u64),
            ) {
                memory.each_of_eight_u64(at, look);
            }

            #[inline]
            fn compare_exchange<M: $crate::memory::GuestMemory>(
                memory: &mut M,
                at: anchorite_addr::Hpa,
                old: u64,
                new: u64,
            ) -> bool {
                memory.compare_exchange_u64(at, old, new)
            }

            #[inline]
            fn large_frame(entry: u64, level: u8) -> u64 {
                let offset = (1 << Self::cover(level)) - 1;
                (entry & Self::ADDRESS) >> 12 & !offset
            }
        }
    };
}
use eight_byte_format;

/// What a walk needs to know of the registers, worked out once when they change.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    pub(crate) mode: PagingMode,
    /// The shadow pages' roles start from this.
    pub(crate) role: Role,
    /// The frame of the topmost table (unused in PAE mode and with paging off).
    pub(crate) root: u64,
    /// The PDPTE registers.
    pub(crate) pdptes: [u64; 4],
    /// Reserved bits by level, in entries that point at a table or map 4 KiB, and in
    /// entries that map a large page. (Levels are 1 to 5; a power of two spares checks.)
    pub(crate) reserved: [[u64; 2]; 8],
    /// Whether PS is looked at, by level.
    pub(crate) large: [bool; 8],
    pub(crate) wp: bool,
    pub(crate) smep: bool,
    pub(crate) smap: bool,
    pub(crate) pke: bool,
    /// Whether I/D is reported in error codes.
    pub(crate) reports_fetch: bool,
    /// By [`Control::class`] of access: bit n says whether rights n permit it, keys apart.
    allowed: [u8; 16],
}

/// Sets of rights, a bit for each value: those with W, with U, with X.
const WITH_WRITE: u8 = 0b1010_1010;
const WITH_USER: u8 = 0b1100_1100;
const WITH_EXEC: u8 = 0b1111_0000;

impl Control {
    /// Derives everything but the PDPTEs, which are loaded apart.
    pub(crate) fn new(registers: &Registers, config: &Config) -> Self {
        let mode = registers.mode();
        let paging = mode != PagingMode::None;
        let cr4 = |bit| paging && registers.cr4.contains(bit);
        let eight_byte = !matches!(mode, PagingMode::None | PagingMode::TwoLevel);
        let nx = eight_byte && registers.efer.contains(Efer::NXE);
        let wp = paging && registers.cr0.contains(Cr0::WP);
        let pse = mode == PagingMode::TwoLevel && cr4(Cr4::PSE);
        let pke = mode.is_long() && cr4(Cr4::PKE);
        let bits = RoleBits { mode, nx, wp, smep: cr4(Cr4::SMEP), smap: cr4(Cr4::SMAP), pke, pse };
        Self {
            mode,
            role: Role::base(bits),
            root: root_frame(mode, registers.cr3),
            pdptes: [0; 4],
            reserved: reserved_bits(mode, nx, config),
            large: [false, false, eight_byte || pse, mode.is_long(), false, false, false, false],
            wp,
            smep: bits.smep,
            smap: bits.smap,
            pke,
            reports_fetch: nx || bits.smep,
            allowed: allowed(bits),
        }
    }

    /// The class of an access: read, write or fetch; bit 2 for a user's, bit 3 for a
    /// supervisor's that SMAP keeps from user pages.
    #[inline]
    fn class(access: Access) -> usize {
        let shielded = !access.user && (access.implicit || !access.ac);
        access.kind as usize | usize::from(access.user) << 2 | usize::from(shielded) << 3
    }

    /// Whether `rights` permit `access` whatever the protection key. `false` says nothing
    /// where keys are on: [`forbidden`](crate::walk::forbidden) knows.
    #[inline]
    pub(crate) fn allows(&self, access: Access, rights: Rights) -> bool {
        self.allowed[Self::class(access)] >> rights & 1 != 0 && !(self.pke && rights & USER != 0)
    }
}

/// The rights that permit each class of access. Intel SDM vol. 3, 4.6.1 "Determination of
/// Access Rights".
fn allowed(bits: RoleBits) -> [u8; 16] {
    let mut allowed = [0; 16];
    for shield in [0, 8] {
        let data = if shield != 0 && bits.smap { !WITH_USER } else { u8::MAX };
        let fetch = if bits.smep { !WITH_USER } else { u8::MAX };
        allowed[shield | AccessKind::Read as usize] = data;
        allowed[shield | AccessKind::Write as usize] =
            data & if bits.wp { WITH_WRITE } else { u8::MAX };
        allowed[shield | AccessKind::Execute as usize] = fetch & WITH_EXEC;
    }
    allowed[4 | AccessKind::Read as usize] = WITH_USER;
    allowed[4 | AccessKind::Write as usize] = WITH_USER & WITH_WRITE;
    allowed[4 | AccessKind::Execute as usize] = WITH_USER & WITH_EXEC;
    allowed
}

/// The frame that CR3 names. Legacy modes ignore its upper half.
pub(crate) fn root_frame(mode: PagingMode, cr3: u64) -> u64 {
    if mode.is_long() { (cr3 & entry::FRAME) >> 12 } else { (cr3 & 0xffff_f000) >> 12 }
}

/// Whether CR3 may hold `value`.
pub(crate) fn check_cr3(
    mode: PagingMode,
    value: u64,
    config: &Config,
) -> Result<(), RegisterFault> {
    let beyond = entry::FRAME & !((1 << config.physical_bits) - 1);
    if mode.is_long() && value & beyond != 0 {
        return Err(RegisterFault::ReservedCr3 { value });
    }
    Ok(())
}

/// Whether PDPTE register `index` may hold `value`: bits 2:1, 8:5 and those from the
/// physical width on are reserved. Intel SDM vol. 3, table 4-8.
pub(crate) fn check_pdpte(index: u8, value: u64, config: &Config) -> Result<(), RegisterFault> {
    let reserved = 0x1e6 | !((1u64 << config.physical_bits) - 1);
    if value & PRESENT != 0 && value & reserved != 0 {
        return Err(RegisterFault::ReservedPdpte { index, value });
    }
    Ok(())
}

fn reserved_bits(mode: PagingMode, nx: bool, config: &Config) -> [[u64; 2]; 8] {
    let width = u32::from(config.physical_bits);
    match mode {
        PagingMode::None => [[0; 2]; 8],
        PagingMode::TwoLevel => {
            // Bits 20:13 hold address bits 39:32, so far as the width reaches.
            let used = width.min(40) - 32;
            let unused = 0x001f_e000 & !((1 << (13 + used)) - 1);
            let mut masks = [[0; 2]; 8];
            masks[2][1] = 1 << 21 | unused;
            masks
        }
        PagingMode::Pae | PagingMode::FourLevel | PagingMode::FiveLevel => {
            let mut all = entry::FRAME & !((1 << width) - 1);
            if mode == PagingMode::Pae {
                all |= 0x7ff << 52;
            }
            if !nx {
                all |= NX;
            }
            let gigabyte = if config.guest_gigabyte_pages { 0 } else { LARGE };
            [
                [all; 2],
                [all; 2],
                [all, all | 0x001f_e000],
                [all, all | 0x3fff_e000 | gigabyte],
                [all | LARGE; 2],
                [all | LARGE; 2],
                [all; 2],
                [all; 2],
            ]
        }
    }
}
