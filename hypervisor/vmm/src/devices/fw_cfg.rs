//! QEMU's configuration device: numbered items and named files, read byte by byte or by DMA.
//!
//! | port | access | what |
//! |---|---|---|
//! | 0x510 | OUT, 16 bits | selects an item and goes to its start |
//! | 0x510, 0x511 | IN, 8 bits | its next byte; zero beyond its end, and of items that are not there |
//! | 0x514, 0x518 | OUT, 32 bits, big-endian | the two halves of a command's address; the lower starts it |
//! | 0x514, 0x518 | IN, 32 bits, big-endian | "QEMU CFG" |
//!
//! Nothing can be written: the data port ignores what it gets, and a command that writes ends
//! with the error bit.
//!
//! Source: QEMU 7.2, docs/specs/fw_cfg.rst, and its hw/nvram/fw_cfg.c for the order of a
//! command's steps.

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;

/// The selector, and for bytes the data.
pub const SELECTOR: u16 = 0x510;
/// The data.
pub const DATA: u16 = 0x511;
/// The upper half of a command's address.
pub const DMA_HIGH: u16 = 0x514;
/// The lower half.
pub const DMA_LOW: u16 = 0x518;

/// Bytes of a command: control, length, address.
pub const COMMAND_BYTES: usize = 16;
/// Control: it failed; the device's answer.
const ERROR: u32 = 1 << 0;
const READ: u32 = 1 << 1;
const SKIP: u32 = 1 << 2;
/// Select the item in the upper half first.
const SELECT: u32 = 1 << 3;
const WRITE: u32 = 1 << 4;

/// Numbers of the items.
pub mod key {
    #![expect(missing_docs, reason = "the names are those of QEMU's standard headers")]
    pub const SIGNATURE: u16 = 0x00;
    pub const ID: u16 = 0x01;
    pub const UUID: u16 = 0x02;
    pub const RAM_SIZE: u16 = 0x03;
    pub const NOGRAPHIC: u16 = 0x04;
    pub const NB_CPUS: u16 = 0x05;
    pub const KERNEL_SIZE: u16 = 0x08;
    pub const INITRD_SIZE: u16 = 0x0b;
    pub const MAX_CPUS: u16 = 0x0f;
    pub const KERNEL_DATA: u16 = 0x11;
    pub const INITRD_DATA: u16 = 0x12;
    pub const CMDLINE_SIZE: u16 = 0x14;
    pub const CMDLINE_DATA: u16 = 0x15;
    pub const FILE_DIR: u16 = 0x19;
    pub const FILE_FIRST: u16 = 0x20;
}

/// Files at most, as many as QEMU has room for on a PC.
pub const MOST_FILES: usize = 0x20;
/// Bytes of a file's name at most; a zero byte follows it.
pub const NAME_BYTES: usize = 55;
/// Size, selector, reserved, name.
const DIRECTORY_ENTRY_BYTES: usize = 64;

/// What [`key::ID`] tells: items can be read by ports, and by DMA.
const WAYS: u32 = 0b11;

/// Why a file is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadFile {
    /// Its name is empty, too long or there already.
    Name,
    /// There is no room for another.
    TooMany,
}

/// The bytes of an item.
type Bytes = Cow<'static, [u8]>;

/// What a PC tells: its memory, the guest that was loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Bytes of RAM.
    pub ram_bytes: u64,
    /// The guest's file.
    pub kernel: &'static [u8],
    /// Its first module.
    pub initrd: &'static [u8],
    /// Its command line.
    pub command_line: String,
}

/// Items, files, and where a reader stands.
///
/// What an item holds is looked up when it is read: a machine is made without a thought of it.
#[derive(Clone, Debug, Default)]
pub struct FwCfg {
    kernel: &'static [u8],
    initrd: &'static [u8],
    command_line: String,
    ram_size: [u8; 8],
    kernel_size: [u8; 4],
    initrd_size: [u8; 4],
    command_line_size: [u8; 4],
    /// By name; the n-th has the number [`key::FILE_FIRST`] + n.
    files: Vec<(String, Bytes)>,
    /// Empty where there is no file; zeroes are read then, which says so.
    directory: Vec<u8>,
    selected: u16,
    offset: usize,
    /// The upper half of a command's address.
    high: u32,
}

/// A command as the guest wrote it, and what of it is still to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    control: u32,
    length: u32,
    address: u64,
}

/// What a command wants done with guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer<'a> {
    /// Where in guest memory it goes.
    pub address: u64,
    /// What is stored there first.
    pub bytes: &'a [u8],
    /// How many zeroes follow.
    pub zeroes: u32,
}

impl FwCfg {
    /// The items that every PC has, and no file.
    pub fn new(contents: Contents) -> Self {
        let Contents { ram_bytes, kernel, initrd, command_line } = contents;
        let size = |bytes: usize| (bytes as u32).to_le_bytes();
        Self {
            ram_size: ram_bytes.to_le_bytes(),
            kernel_size: size(kernel.len()),
            initrd_size: size(initrd.len()),
            // The zero byte at its end is what is read beyond it.
            command_line_size: size(command_line.len() + 1),
            kernel,
            initrd,
            command_line,
            ..Self::default()
        }
    }

    /// Adds a file. Files are numbered by their names' order, so those that were there may get
    /// other numbers.
    pub fn add_file(&mut self, name: &str, bytes: impl Into<Bytes>) -> Result<(), BadFile> {
        if name.is_empty() || name.len() > NAME_BYTES || name.contains('\0') {
            return Err(BadFile::Name);
        }
        let place = self.files.binary_search_by(|(other, _)| other.as_str().cmp(name));
        let Err(place) = place else { return Err(BadFile::Name) };
        if self.files.len() >= MOST_FILES {
            return Err(BadFile::TooMany);
        }
        self.files.insert(place, (name.into(), bytes.into()));
        self.list();
        Ok(())
    }

    /// Selects an item. The bit that once meant writing to it is not looked at.
    pub const fn select(&mut self, key: u16) {
        const WRITE_CHANNEL: u16 = 0x4000;
        self.selected = key & !WRITE_CHANNEL;
        self.offset = 0;
    }

    /// The next byte of the selected item.
    pub fn read(&mut self) -> u8 {
        let byte = self.selected().get(self.offset).copied();
        self.offset += usize::from(byte.is_some());
        byte.unwrap_or(0)
    }

    /// The register of the command's address: what it reads as at `port`.
    pub const fn read_dma(port: u16) -> u32 {
        let half = if port == DMA_HIGH { b"QEMU" } else { b" CFG" };
        u32::from_le_bytes(*half)
    }

    /// Half of a command's address is written; the lower gives the whole.
    pub const fn write_dma(&mut self, port: u16, value: u32) -> Option<u64> {
        if port == DMA_HIGH {
            self.high = value.swap_bytes();
            return None;
        }
        let high = self.high as u64;
        self.high = 0;
        Some(high << 32 | value.swap_bytes() as u64)
    }

    /// Begins a command: selects what it says, and gives what it wants stored. What it answers
    /// is [`Command::answer`], once that has gone well or not.
    pub fn begin(&mut self, command: &Command) -> Option<Transfer<'_>> {
        if command.control & SELECT != 0 {
            self.select((command.control >> 16) as u16);
        }
        if command.control & (READ | SKIP) == 0 || command.is_write() {
            return None;
        }
        let start = self.offset.min(self.selected().len());
        let there = (self.selected().len() - start).min(command.length as usize);
        self.offset = start + there;
        if command.control & READ == 0 {
            return None;
        }
        let bytes = &self.selected()[start..start + there];
        Some(Transfer { address: command.address, bytes, zeroes: command.length - there as u32 })
    }

    /// The bytes of the selected item.
    fn selected(&self) -> &[u8] {
        const ONE: &[u8] = &1_u16.to_le_bytes();
        match self.selected {
            key::SIGNATURE => b"QEMU",
            key::ID => const { &WAYS.to_le_bytes() },
            key::UUID => &[0; 16],
            key::RAM_SIZE => &self.ram_size,
            key::NOGRAPHIC | key::NB_CPUS | key::MAX_CPUS => ONE,
            key::KERNEL_SIZE => &self.kernel_size,
            key::KERNEL_DATA => self.kernel,
            key::INITRD_SIZE => &self.initrd_size,
            key::INITRD_DATA => self.initrd,
            key::CMDLINE_SIZE => &self.command_line_size,
            key::CMDLINE_DATA => self.command_line.as_bytes(),
            key::FILE_DIR => &self.directory,
            other => self.file(other),
        }
    }

    fn file(&self, key: u16) -> &[u8] {
        let index = key.checked_sub(key::FILE_FIRST).map(usize::from);
        index.and_then(|index| self.files.get(index)).map_or(&[], |(_, bytes)| bytes)
    }

    /// Makes the directory anew.
    fn list(&mut self) {
        self.directory = Vec::from((self.files.len() as u32).to_be_bytes());
        for (number, (name, bytes)) in (key::FILE_FIRST..).zip(&self.files) {
            let end = self.directory.len() + DIRECTORY_ENTRY_BYTES;
            self.directory.extend((bytes.len() as u32).to_be_bytes());
            self.directory.extend(number.to_be_bytes());
            self.directory.extend([0; 2]);
            self.directory.extend(name.as_bytes());
            self.directory.resize(end, 0);
        }
    }
}

impl Command {
    /// A command as it lies in guest memory, all fields big-endian.
    pub fn parse(bytes: &[u8; COMMAND_BYTES]) -> Self {
        let word = |at: usize| {
            u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let address = u64::from(word(8)) << 32 | u64::from(word(12));
        Self { control: word(0), length: word(4), address }
    }

    /// What its control field holds afterwards, as it lies in memory: 0 or the error bit.
    /// `stored`: the transfer, if there was one, went well.
    pub const fn answer(&self, stored: bool) -> [u8; 4] {
        let refused = self.is_write() && self.length > 0;
        let error = if refused || !stored { ERROR } else { 0 };
        error.to_be_bytes()
    }

    /// Of reading and writing the former counts.
    const fn is_write(&self) -> bool {
        self.control & (READ | WRITE) == WRITE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    fn empty() -> FwCfg {
        FwCfg::new(Contents {
            ram_bytes: 64 << 20,
            kernel: b"the kernel",
            initrd: b"ramdisk",
            command_line: "quiet".into(),
        })
    }

    fn device() -> FwCfg {
        let mut device = empty();
        device.add_file("opt/b", b"second".as_slice()).expect("room");
        device.add_file("opt/a", b"first".as_slice()).expect("room");
        device
    }

    fn item<const N: usize>(key: u16) -> [u8; N] {
        let mut device = device();
        device.select(key);
        [(); N].map(|()| device.read())
    }

    fn command(control: u32, length: u32) -> Command {
        Command { control, length, address: 0x1_2345_6789 }
    }

    #[test]
    fn the_usual_items_hold_what_a_pc_tells() {
        assert_eq!(&item::<4>(key::SIGNATURE), b"QEMU");
        assert_eq!(u32::from_le_bytes(item(key::ID)), 3);
        assert_eq!(u64::from_le_bytes(item(key::RAM_SIZE)), 64 << 20);
        assert_eq!(u16::from_le_bytes(item(key::NB_CPUS)), 1);
        assert_eq!(u32::from_le_bytes(item(key::KERNEL_SIZE)), 10);
        assert_eq!(&item::<12>(key::KERNEL_DATA), b"the kernel\0\0");
        assert_eq!(
            (u32::from_le_bytes(item(key::INITRD_SIZE)), &item(key::INITRD_DATA)),
            (7, b"ramdisk")
        );
        assert_eq!(
            (u32::from_le_bytes(item(key::CMDLINE_SIZE)), &item(key::CMDLINE_DATA)),
            (6, b"quiet\0")
        );
    }

    #[test]
    fn beyond_an_item_and_of_no_item_zeroes_are_read() {
        assert_eq!(item(key::NB_CPUS), [1, 0, 0, 0]);
        for absent in [0x07, 0x22, 0x40, 0x8000, 0xffff] {
            assert_eq!(item::<8>(absent), [0; 8], "{absent:#x}");
        }
    }

    #[test]
    fn without_files_the_directory_counts_none() {
        let mut device = empty();
        device.select(key::FILE_DIR);
        assert_eq!([(); 8].map(|()| device.read()), [0; 8]);
    }

    #[test]
    fn the_directory_lists_files_by_name_with_numbers_that_select_them() {
        let directory: [u8; 4 + 2 * 64] = item(key::FILE_DIR);
        assert_eq!(directory[..4], [0, 0, 0, 2]);
        for (entry, (name, text)) in
            directory[4..].chunks(64).zip([("opt/a", "first"), ("opt/b", "second")])
        {
            assert_eq!(entry[..4], (text.len() as u32).to_be_bytes());
            assert_eq!(&entry[8..8 + name.len()], name.as_bytes());
            assert_eq!(entry[8 + name.len()], 0);
            let key = u16::from_be_bytes([entry[4], entry[5]]);
            let mut device = device();
            device.select(key);
            assert!(text.bytes().all(|byte| device.read() == byte), "{name}");
        }
    }

    #[test]
    fn names_that_do_not_fit_and_files_without_room_are_refused() {
        let mut device = empty();
        for name in ["", &"x".repeat(56), "a\0b"] {
            assert_eq!(device.add_file(name, Vec::new()), Err(BadFile::Name), "{name:?}");
        }
        for number in 0..MOST_FILES {
            device.add_file(&format!("opt/{number}"), Vec::new()).expect("room");
        }
        assert_eq!(device.add_file("opt/0", Vec::new()), Err(BadFile::Name), "twice");
        assert_eq!(device.add_file("opt/x", Vec::new()), Err(BadFile::TooMany));
    }

    #[test]
    fn a_command_reads_what_it_selects_and_goes_on_where_the_last_one_ended() {
        let mut device = device();
        let first = command(READ | SELECT | 0x20 << 16, 3);
        let transfer = device.begin(&first).expect("a transfer");
        assert_eq!(
            (transfer.address, transfer.bytes, transfer.zeroes),
            (0x1_2345_6789, &b"fir"[..], 0)
        );
        let rest =
            device.begin(&command(READ, 9)).map(|transfer| (transfer.bytes.len(), transfer.zeroes));
        assert_eq!(rest, Some((2, 7)));
        assert_eq!(device.begin(&command(READ, 4)).map(|transfer| transfer.zeroes), Some(4));
        device.select(0x20);
        assert_eq!(device.begin(&command(SKIP, 2)), None);
        assert_eq!(device.read(), b'r');
    }

    #[test]
    fn an_answer_is_zero_or_an_error() {
        assert_eq!(command(READ, 1).answer(true), [0; 4]);
        assert_eq!(command(READ, 1).answer(false), [0, 0, 0, 1]);
        assert_eq!(command(WRITE | SELECT, 1).answer(true), [0, 0, 0, 1]);
        assert_eq!(command(WRITE, 0).answer(true), [0; 4]);
        assert_eq!(command(SELECT, 1).answer(true), [0; 4]);
        assert_eq!(device().begin(&command(WRITE, 1)), None);
    }

    #[test]
    fn the_address_of_a_command_is_big_endian_and_its_lower_half_starts_it() {
        let mut device = device();
        assert_eq!(device.write_dma(DMA_HIGH, 0x0100_0000), None);
        assert_eq!(device.write_dma(DMA_LOW, 0x7856_3412), Some(0x1_1234_5678));
        assert_eq!(
            device.write_dma(DMA_LOW, 0x0010_0000),
            Some(0x1000),
            "the upper half is used up"
        );
        assert_eq!(FwCfg::read_dma(DMA_HIGH).to_le_bytes(), *b"QEMU");
        assert_eq!(FwCfg::read_dma(DMA_LOW).to_le_bytes(), *b" CFG");
        let bytes = [0, 0x20, 0, 8, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0x20, 0];
        let parsed = Command { control: 0x20_0008, length: 7, address: 0x1_0000_2000 };
        assert_eq!(Command::parse(&bytes), parsed);
    }
}
