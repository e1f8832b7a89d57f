//! The boot loader's modules as bytes.

#![expect(unsafe_code, reason = "reads memory that the boot loader filled")]

use super::direct_map;
use crate::boot::information;

/// A module: its bytes and the words given with it.
#[derive(Clone, Copy, Debug)]
pub struct Module {
    /// Its name: the first word of its string.
    pub name: &'static str,
    /// The rest of its string.
    pub arguments: &'static str,
    /// Its bytes.
    pub bytes: &'static [u8],
}

/// The modules in the boot loader's order.
pub fn modules() -> impl Iterator<Item = Module> {
    crate::boot::boot().information.modules.iter().map(module)
}

fn module(described: &'static information::Module) -> Module {
    let range = direct_map::usable(described.range.clone());
    let bytes = range.end.saturating_sub(range.start) as usize;
    let start = direct_map::pointer(range.start.min(super::DIRECT_MAP_BYTES - 1));
    // SAFETY: the layout keeps modules out of every region that is given away, so
    // that nothing writes them; the direct map is mapped as long as the machine runs.
    let bytes = unsafe { core::slice::from_raw_parts(start.as_ptr(), bytes) };
    let text = described.string.as_str().trim();
    let (name, arguments) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    Module { name, arguments: arguments.trim_start(), bytes }
}
