//! The device tree that tells Hermit where the ACPI root pointer is.
//!
//! Hermit looks for it in the EBDA and the BIOS area, where a UEFI machine has
//! none, or in the node `/hermit,rsdp` of a device tree. This builds just that
//! node, as a flattened tree in a fixed buffer.
//!
//! Source: Devicetree Specification 0.4, chapter 5 "Flattened Devicetree (DTB) Format".

/// Bytes of the tree.
pub(super) const BYTES: usize = STRINGS + STRING_BYTES.len();

const HEADER_BYTES: usize = 40;
/// One empty memory reservation ends the reservation block.
const STRUCTURE: usize = HEADER_BYTES + 16;
const NODE_NAME: &[u8; 12] = b"hermit,rsdp\0";
/// Hermit compares this with "hermit,uefi" and insists that it exists.
const COMPATIBLE: &[u8; 12] = b"anchorite\0\0\0";
/// Root node (tag, empty name) with a property (tag, length, name offset, value),
/// node (tag, name) with a property, two end-of-node tags, end tag.
const STRUCTURE_BYTES: usize =
    8 + 12 + COMPATIBLE.len() + 4 + NODE_NAME.len() + 12 + 12 + 4 + 4 + 4;
const STRINGS: usize = STRUCTURE + STRUCTURE_BYTES;
const STRING_BYTES: &[u8; 15] = b"reg\0compatible\0";
const REG: u32 = 0;
const COMPATIBLE_NAME: u32 = 4;

const MAGIC: u32 = 0xd00d_feed;
const VERSION: u32 = 17;
const LAST_COMPATIBLE_VERSION: u32 = 16;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;
const END: u32 = 9;

/// Writes the tree for a root pointer of `length` bytes at `address`.
///
/// The default cell counts hold: two cells of address, one of size.
pub(super) fn build(address: u64, length: u32) -> [u8; BYTES] {
    let mut tree = Writer { bytes: [0; BYTES], at: 0 };
    let header = [
        MAGIC,
        BYTES as u32,
        STRUCTURE as u32,
        STRINGS as u32,
        HEADER_BYTES as u32,
        VERSION,
        LAST_COMPATIBLE_VERSION,
        0,
        STRING_BYTES.len() as u32,
        STRUCTURE_BYTES as u32,
    ];
    tree.words(&header);
    tree.words(&[0; 4]);

    tree.words(&[BEGIN_NODE, 0]);
    tree.words(&[PROPERTY, "anchorite".len() as u32 + 1, COMPATIBLE_NAME]);
    tree.bytes(COMPATIBLE);
    tree.words(&[BEGIN_NODE]);
    tree.bytes(NODE_NAME);
    tree.words(&[PROPERTY, 12, REG, (address >> 32) as u32, address as u32, length]);
    tree.words(&[END_NODE, END_NODE, END]);

    tree.bytes(STRING_BYTES);
    tree.bytes
}

struct Writer {
    bytes: [u8; BYTES],
    at: usize,
}

impl Writer {
    fn words(&mut self, words: &[u32]) {
        for word in words {
            self.bytes(&word.to_be_bytes());
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.bytes[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parser_that_hermit_uses_finds_the_root_pointer() {
        let blob = build(0x1_2345_6780, 36);
        let tree = fdt::Fdt::new(&blob).expect("well-formed");
        let node = tree.find_node("/hermit,rsdp").expect("node");
        let region = node.reg().expect("reg").next().expect("one region");
        assert_eq!(region.starting_address as u64, 0x1_2345_6780);
        assert_eq!(region.size, Some(36));
        assert_eq!(tree.root().compatible().first(), "anchorite");
    }
}
