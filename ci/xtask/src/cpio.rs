//! Archives in the format that Linux unpacks into its first file system.
//!
//! Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst, "newc".

use std::collections::BTreeSet;

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_666;
/// Headers and contents start at multiples of this.
const ALIGNMENT: usize = 4;

/// An archive in the making. Everything in it belongs to root and dates from 1970, so that the
/// same contents give the same bytes.
#[derive(Debug, Default)]
pub(crate) struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
    folders: BTreeSet<String>,
}

impl Cpio {
    /// Adds an executable file; its folders come first where they are not there yet.
    pub(crate) fn program(&mut self, path: &str, contents: &[u8]) {
        self.add_folders(path);
        self.entry(path, PROGRAM, (0, 0), contents);
    }

    /// Adds a character device that everybody may use.
    pub(crate) fn device(&mut self, path: &str, major: u32, minor: u32) {
        self.add_folders(path);
        self.entry(path, CHARACTER_DEVICE, (major, minor), &[]);
    }

    /// The finished archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn add_folders(&mut self, path: &str) {
        for (end, _) in path.match_indices('/') {
            let folder = &path[..end];
            if self.folders.insert(folder.to_owned()) {
                self.entry(folder, FOLDER, (0, 0), &[]);
            }
        }
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), contents: &[u8]) {
        self.entries += 1;
        let bytes = u32::try_from(contents.len()).unwrap_or(u32::MAX);
        let name_bytes = u32::try_from(path.len() + 1).unwrap_or(u32::MAX);
        let (major, minor) = device;
        let fields = [self.entries, mode, 0, 0, 1, 0, bytes, 0, 0, major, minor, name_bytes, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(contents);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the archive says of a file.
    struct Entry {
        name: String,
        mode: u32,
        device: (u32, u32),
        contents: Vec<u8>,
    }

    /// The entries, read back field by field.
    fn entries(bytes: &[u8]) -> Vec<Entry> {
        let mut at = 0;
        let mut found = Vec::new();
        while at < bytes.len() {
            assert_eq!(&bytes[at..at + 6], b"070701", "at {at}");
            let field = |index: usize| {
                let start = at + 6 + 8 * index;
                let text = std::str::from_utf8(&bytes[start..start + 8]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            let (size, name_size) = (field(6) as usize, field(11) as usize);
            let name = String::from_utf8(bytes[at + 110..at + 109 + name_size].to_vec()).unwrap();
            let start = (at + 110 + name_size).next_multiple_of(4);
            let contents = bytes[start..start + size].to_vec();
            found.push(Entry { name, mode: field(1), device: (field(9), field(10)), contents });
            at = (start + size).next_multiple_of(4);
        }
        found
    }

    #[test]
    fn what_goes_in_can_be_read_back_and_folders_come_before_their_files() {
        let mut cpio = Cpio::default();
        cpio.program("init", b"#!/bin/sh\n");
        cpio.device("dev/console", 5, 1);
        cpio.program("usr/bin/a", b"xyz");
        cpio.program("usr/bin/b", b"");
        let found = entries(&cpio.finish());
        let names: Vec<&str> = found.iter().map(|entry| entry.name.as_str()).collect();
        let expected = [
            "init",
            "dev",
            "dev/console",
            "usr",
            "usr/bin",
            "usr/bin/a",
            "usr/bin/b",
            "TRAILER!!!",
        ];
        assert_eq!(names, expected);
        assert_eq!(found[0].contents, b"#!/bin/sh\n");
        assert_eq!((found[2].mode, found[2].device), (0o020_666, (5, 1)));
        assert_eq!((found[5].mode, found[5].contents.as_slice()), (0o100_755, b"xyz".as_slice()));
    }
}
