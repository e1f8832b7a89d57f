//! What a Hermit kernel is given by hypercalls: its arguments, and files, read-only, by name.
//!
//! There is no file system of the host behind them. A path is the name of its last component,
//! wherever the kernel has mounted its host (`/root` unless it is told otherwise).

use alloc::string::String;
use alloc::vec::Vec;

use uhyve_interface::MAX_ARGC_ENVC;
use uhyve_interface::parameters::{
    EBADF, EINVAL, ENOENT, EROFS, O_CREAT, O_RDWR, O_TRUNC, O_WRONLY, SEEK_CUR, SEEK_END, SEEK_SET,
};

/// Too many open files; as in Linux.
const EMFILE: i32 = 24;
/// Descriptors below are standard input, output and error.
const FIRST_DESCRIPTOR: i32 = 3;
/// Descriptors open at a time at most, so that a guest cannot use up the host's memory.
const MOST_OPEN: usize = 64;

/// An error number of Hermit's; calls return its negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

/// A file.
#[derive(Clone, Debug)]
pub struct File {
    name: String,
    bytes: &'static [u8],
}

impl File {
    /// A file with the last component of `path` as its name.
    pub fn new(path: &str, bytes: &'static [u8]) -> Self {
        Self { name: last_component(path).into(), bytes }
    }
}

/// An open file: which, and where the next read begins.
#[derive(Clone, Copy, Debug)]
struct Open {
    file: usize,
    offset: u64,
}

/// The arguments, all files, and those that are open.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// The name of the program first.
    arguments: Vec<String>,
    all: Vec<File>,
    /// By descriptor, from [`FIRST_DESCRIPTOR`] on.
    open: Vec<Option<Open>>,
}

impl Files {
    /// These files, none of them open. Of two with the same name the first is found.
    ///
    /// The arguments are the words of `command_line` behind `--`, as in the kernel's own reading
    /// of it, after the name of the program.
    pub fn new(files: Vec<File>, program: &str, command_line: &str) -> Self {
        let words = command_line.split_whitespace().skip_while(|&word| word != "--").skip(1);
        let words = words.take(MAX_ARGC_ENVC - 1).map(String::from);
        let arguments = core::iter::once(last_component(program).into()).chain(words).collect();
        Self { arguments, all: files, open: Vec::new() }
    }

    /// The arguments, at most as many as the hypercall can tell.
    pub fn arguments(&self) -> &[String] {
        &self.arguments
    }

    /// Opens for reading; gives the descriptor. EROFS where `flags` (Hermit's `O_…`) ask for
    /// more, ENOENT, EMFILE.
    pub fn open(&mut self, path: &[u8], flags: i32) -> Result<i32, Errno> {
        if flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC) != 0 {
            return Err(Errno(EROFS));
        }
        let file = self.find(path)?;
        let free = self.open.iter().position(Option::is_none).unwrap_or(self.open.len());
        if free >= MOST_OPEN {
            return Err(Errno(EMFILE));
        }
        if free == self.open.len() {
            self.open.push(None);
        }
        self.open[free] = Some(Open { file, offset: 0 });
        Ok(FIRST_DESCRIPTOR + free as i32)
    }

    /// What a read of at most `bytes` bytes gives, before [`skip`](Self::skip) goes past it.
    /// EBADF.
    pub fn peek(&self, descriptor: i32, bytes: u64) -> Result<&'static [u8], Errno> {
        let open = self.descriptor(descriptor)?;
        let contents = self.all[open.file].bytes;
        let start = open.offset.min(contents.len() as u64) as usize;
        let rest = &contents[start..];
        Ok(&rest[..bytes.min(rest.len() as u64) as usize])
    }

    /// Goes `bytes` bytes on in an open file.
    pub fn skip(&mut self, descriptor: i32, bytes: u64) {
        if let Some(open) = self.slot(descriptor) {
            open.offset = open.offset.saturating_add(bytes);
        }
    }

    /// Where the next read is to begin, counted from `whence` (Hermit's `SEEK_…`); gives it
    /// counted from the file's start. EBADF, EINVAL for a place before the start.
    pub fn seek(&mut self, descriptor: i32, offset: i64, whence: i32) -> Result<i64, Errno> {
        let open = self.descriptor(descriptor)?;
        let base = match whence {
            SEEK_SET => 0,
            SEEK_CUR => open.offset,
            SEEK_END => self.all[open.file].bytes.len() as u64,
            _ => return Err(Errno(EINVAL)),
        };
        let target = i64::try_from(base).ok().and_then(|base| base.checked_add(offset));
        let target = target.filter(|&target| target >= 0).ok_or(Errno(EINVAL))?;
        if let Some(open) = self.slot(descriptor) {
            open.offset = target as u64;
        }
        Ok(target)
    }

    /// Closes. EBADF.
    pub fn close(&mut self, descriptor: i32) -> Result<(), Errno> {
        let slot = place(descriptor).and_then(|place| self.open.get_mut(place));
        slot.and_then(Option::take).map(|_| ()).ok_or(Errno(EBADF))
    }

    /// Removes a file, which is never possible: EROFS, or ENOENT.
    pub fn unlink(&self, path: &[u8]) -> Errno {
        self.find(path).map_or_else(|error| error, |_| Errno(EROFS))
    }

    fn find(&self, path: &[u8]) -> Result<usize, Errno> {
        let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        let found = self.all.iter().position(|file| file.name.as_bytes() == name);
        found.filter(|_| !name.is_empty()).ok_or(Errno(ENOENT))
    }

    fn descriptor(&self, descriptor: i32) -> Result<Open, Errno> {
        let open = place(descriptor).and_then(|place| self.open.get(place).copied().flatten());
        open.ok_or(Errno(EBADF))
    }

    fn slot(&mut self, descriptor: i32) -> Option<&mut Open> {
        self.open.get_mut(place(descriptor)?)?.as_mut()
    }
}

/// Where in [`Files::open`] a descriptor stands.
fn place(descriptor: i32) -> Option<usize> {
    usize::try_from(descriptor.checked_sub(FIRST_DESCRIPTOR)?).ok()
}

fn last_component(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn files() -> Files {
        let files = vec![File::new("/tmp/a.txt", b"first file"), File::new("b", b"")];
        Files::new(files, "out/program", "-freq 1000 -- one two")
    }

    #[test]
    fn the_arguments_are_the_program_and_the_words_behind_two_dashes() {
        assert_eq!(files().arguments(), ["program", "one", "two"]);
        assert_eq!(Files::new(vec![], "p", "-freq 1").arguments(), ["p"]);
        let many = "x ".repeat(200);
        assert_eq!(Files::new(vec![], "p", &alloc::format!("-- {many}")).arguments().len(), 128);
    }

    #[test]
    fn a_file_is_read_to_its_end_by_the_last_component_of_its_path() {
        let mut files = files();
        let fd = files.open(b"/root/a.txt", 0).expect("there");
        assert_eq!(fd, 3);
        assert_eq!(files.peek(fd, 5), Ok(b"first".as_slice()));
        files.skip(fd, 6);
        assert_eq!(files.peek(fd, u64::MAX), Ok(b"file".as_slice()));
        files.skip(fd, 4);
        assert_eq!(files.peek(fd, 1), Ok(b"".as_slice()));
    }

    #[test]
    fn descriptors_are_the_lowest_free_ones_and_do_not_share_their_place() {
        let mut files = files();
        let descriptors = [0; 3].map(|flags| files.open(b"a.txt", flags).expect("there"));
        assert_eq!(descriptors, [3, 4, 5]);
        files.skip(3, 6);
        assert_eq!(files.peek(4, 5), Ok(b"first".as_slice()));
        assert_eq!(files.close(4), Ok(()));
        assert_eq!(files.close(4), Err(Errno(EBADF)));
        assert_eq!(files.open(b"b", 0), Ok(4));
        assert_eq!(files.peek(4, 9), Ok(b"".as_slice()));
    }

    #[test]
    fn seeking_counts_from_where_it_is_told_and_never_before_the_start() {
        let mut files = files();
        let fd = files.open(b"a.txt", 0).expect("there");
        assert_eq!(files.seek(fd, 6, SEEK_SET), Ok(6));
        assert_eq!(files.seek(fd, -2, SEEK_CUR), Ok(4));
        assert_eq!(files.seek(fd, -1, SEEK_END), Ok(9));
        assert_eq!(files.peek(fd, 9), Ok(b"e".as_slice()));
        assert_eq!(files.seek(fd, 100, SEEK_END), Ok(110));
        assert_eq!(files.peek(fd, 9), Ok(b"".as_slice()));
        for (offset, whence) in [(-1, SEEK_SET), (-111, SEEK_CUR), (i64::MAX, SEEK_END), (0, 7)] {
            assert_eq!(files.seek(fd, offset, whence), Err(Errno(EINVAL)), "{offset} {whence}");
        }
        assert_eq!(files.seek(fd, 0, SEEK_CUR), Ok(110), "refused ones change nothing");
    }

    #[test]
    fn nothing_is_written_made_or_removed() {
        let mut files = files();
        for flags in [O_WRONLY, O_RDWR, O_CREAT, O_TRUNC] {
            assert_eq!(files.open(b"a.txt", flags), Err(Errno(EROFS)));
        }
        assert_eq!(files.unlink(b"a.txt"), Errno(EROFS));
        assert_eq!(files.unlink(b"c"), Errno(ENOENT));
    }

    #[test]
    fn what_is_not_there_or_not_open_is_an_error() {
        let mut files = files();
        for path in [b"c".as_slice(), b"", b"/", b"a.txt/", b"A.TXT"] {
            assert_eq!(files.open(path, 0), Err(Errno(ENOENT)), "{path:?}");
        }
        for descriptor in [i32::MIN, -1, 0, 2, 3, 67, i32::MAX] {
            assert_eq!(files.peek(descriptor, 1), Err(Errno(EBADF)));
            assert_eq!(files.seek(descriptor, 0, SEEK_SET), Err(Errno(EBADF)));
            assert_eq!(files.close(descriptor), Err(Errno(EBADF)));
            files.skip(descriptor, 1);
        }
    }

    #[test]
    fn no_more_than_so_many_are_open_at_a_time() {
        let mut files = files();
        for _ in 0..MOST_OPEN {
            files.open(b"b", 0).expect("room");
        }
        assert_eq!(files.open(b"b", 0), Err(Errno(EMFILE)));
        files.close(10).expect("open");
        assert_eq!(files.open(b"b", 0), Ok(10));
    }
}
