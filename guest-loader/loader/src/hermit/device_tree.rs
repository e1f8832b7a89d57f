//! The device tree that tells a Hermit kernel its RAM and its command line.
//!
//! Source: Devicetree Specification 0.4, chapter 5 "Flattened Devicetree (DTB) Format", 3.4
//! "/memory node", 3.6 "/chosen Node"; the names of uhyve's tree.

use alloc::format;
use alloc::vec::Vec;

use crate::Problem;
use crate::bytes::Builder;
use crate::ram::{MemoryRange, RangeKind};

const MAGIC: u32 = 0xd00d_feed;
const VERSION: u32 = 17;
const LAST_COMPATIBLE_VERSION: u32 = 16;
const HEADER_BYTES: u32 = 40;
/// One empty reservation ends the block of them.
const RESERVATION_BYTES: u32 = 16;

const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;
const END: u32 = 9;

/// Bytes of command line taken. Hermit has no limit of its own, but this must fit below it.
const COMMAND_LINE_BYTES: u64 = 0x4000;

/// The tree for a machine with this memory map.
pub(super) fn build(map: &[MemoryRange], command_line: &str) -> Result<Vec<u8>, Problem> {
    check_text(command_line)?;
    let mut tree = Tree::default();
    tree.begin("").text("compatible", "hermit,uhyve");
    tree.cells("#address-cells", &[2]).cells("#size-cells", &[2]);
    for (start, bytes) in ram(map) {
        tree.begin(&format!("memory@{start:x}")).text("device_type", "memory");
        tree.cells(
            "reg",
            &[(start >> 32) as u32, start as u32, (bytes >> 32) as u32, bytes as u32],
        );
        tree.end();
    }
    tree.begin("chosen").text("bootargs", command_line).end();
    tree.end();
    Ok(tree.finish())
}

/// First byte and size of each range of RAM.
pub(super) fn ram(map: &[MemoryRange]) -> impl Iterator<Item = (u64, u64)> {
    let ranges = map.iter().filter(|range| range.kind == RangeKind::Ram);
    ranges.map(|range| (range.start.as_u64(), range.bytes))
}

fn check_text(text: &str) -> Result<(), Problem> {
    let what = "the command line";
    if let Some(offset) = text.bytes().position(|byte| byte == 0) {
        return Err(Problem::TextWithZero { what, offset: offset as u64 });
    }
    let bytes = text.len() as u64;
    if bytes > COMMAND_LINE_BYTES {
        return Err(Problem::TextTooLong { what, bytes, limit: COMMAND_LINE_BYTES });
    }
    Ok(())
}

/// A tree in the making: its structure block and the names of its properties.
#[derive(Default)]
struct Tree {
    structure: Builder,
    names: Builder,
}

impl Tree {
    fn begin(&mut self, name: &str) -> &mut Self {
        self.structure.be32(BEGIN_NODE).text(name).align(4);
        self
    }

    fn end(&mut self) -> &mut Self {
        self.structure.be32(END_NODE);
        self
    }

    fn text(&mut self, name: &str, value: &str) -> &mut Self {
        self.property(name, value.len() as u32 + 1);
        self.structure.text(value).align(4);
        self
    }

    fn cells(&mut self, name: &str, cells: &[u32]) -> &mut Self {
        self.property(name, 4 * cells.len() as u32);
        for &cell in cells {
            self.structure.be32(cell);
        }
        self
    }

    /// A name is stored anew with each property: there are few.
    fn property(&mut self, name: &str, bytes: u32) {
        let name_at = self.names.as_bytes().len() as u32;
        self.names.text(name);
        self.structure.be32(PROPERTY).be32(bytes).be32(name_at);
    }

    fn finish(&mut self) -> Vec<u8> {
        self.structure.be32(END);
        let (structure, names) = (self.structure.as_bytes(), self.names.as_bytes());
        let structure_at = HEADER_BYTES + RESERVATION_BYTES;
        let names_at = structure_at + structure.len() as u32;
        let mut tree = Builder::default();
        tree.be32(MAGIC).be32(names_at + names.len() as u32).be32(structure_at).be32(names_at);
        tree.be32(HEADER_BYTES).be32(VERSION).be32(LAST_COMPATIBLE_VERSION).be32(0);
        tree.be32(names.len() as u32).be32(structure.len() as u32);
        tree.u64(0).u64(0);
        [tree.as_bytes(), structure, names].concat()
    }
}
