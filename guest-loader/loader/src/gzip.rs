//! Compressed kernels: a gzip file stands for what is in it.
//!
//! Source: RFC 1952, "GZIP file format specification version 4.3", 2.3 "Member format".

use alloc::vec;
use alloc::vec::Vec;

use miniz_oxide::inflate::decompress_slice_iter_to_slice;

use crate::Problem;
use crate::bytes::Structure;

const MAGIC: &[u8] = &[0x1f, 0x8b];
const DEFLATE: u8 = 8;
const HEADER_BYTES: u64 = 10;
/// CRC and size behind the compressed data.
const TRAILER_BYTES: u64 = 8;

const FLAG_HEADER_CRC: u8 = 1 << 1;
const FLAG_EXTRA: u8 = 1 << 2;
const FLAG_NAME: u8 = 1 << 3;
const FLAG_COMMENT: u8 = 1 << 4;
const FLAGS_RESERVED: u8 = 0xe0;

/// What is unpacked at most. The size in the trailer is not to be trusted, and memory for it is
/// taken at once.
const MOST_BYTES: u64 = 12 << 20;

/// Whether a file starts as a gzip file does.
pub(crate) fn is_compressed(file: &[u8]) -> bool {
    file.starts_with(MAGIC)
}

/// What the file holds. Only the first member counts, which must be the last too.
pub(crate) fn unpack(file: &[u8]) -> Result<Vec<u8>, Problem> {
    let start = data_offset(file)?;
    let behind = file.len() as u64;
    let end = behind.checked_sub(TRAILER_BYTES).filter(|&end| end > start);
    let end = end.ok_or(Problem::Truncated {
        what: "the compressed data of the gzip file",
        offset: start,
        bytes: TRAILER_BYTES + 1,
        file_bytes: behind,
    })?;
    let trailer = Structure::new(file, "the gzip trailer", end, TRAILER_BYTES)?;
    let size = u64::from(trailer.u32(4));
    if size > MOST_BYTES {
        return Err(Problem::Field {
            field: "ISIZE of the gzip trailer",
            value: size,
            remedy: "at most 12 MiB are unpacked here; unpack the file beforehand (gunzip)",
        });
    }
    let data = Structure::new(file, "the compressed data", start, end - start)?.as_bytes();
    inflate(data, size as usize, trailer.u32(0))
}

/// Where the compressed data begins, behind the header's optional fields.
fn data_offset(file: &[u8]) -> Result<u64, Problem> {
    let header = Structure::new(file, "the gzip header", 0, HEADER_BYTES)?;
    let (method, flags) = (header.u8(2), header.u8(3));
    if method != DEFLATE {
        return Err(field("CM of the gzip header", method, "8 (deflate) is the only method"));
    }
    if flags & FLAGS_RESERVED != 0 {
        return Err(field("FLG of the gzip header", flags, "bits 5 to 7 must be clear"));
    }
    let mut at = HEADER_BYTES;
    if flags & FLAG_EXTRA != 0 {
        let length = Structure::new(file, "XLEN of the gzip header", at, 2)?.u16(0);
        at += 2 + u64::from(length);
    }
    for (flag, what) in [
        (FLAG_NAME, "the name in the gzip header"),
        (FLAG_COMMENT, "the comment in the gzip header"),
    ] {
        if flags & flag != 0 {
            at = behind_text(file, at, what)?;
        }
    }
    if flags & FLAG_HEADER_CRC != 0 {
        at += 2;
    }
    Ok(at)
}

/// Behind the zero byte that ends the text at `at`.
fn behind_text(file: &[u8], at: u64, what: &'static str) -> Result<u64, Problem> {
    let rest = usize::try_from(at).ok().and_then(|at| file.get(at..)).unwrap_or_default();
    let length = rest.iter().position(|&byte| byte == 0);
    let (bytes, file_bytes) = (rest.len() as u64 + 1, file.len() as u64);
    let truncated = Problem::Truncated { what, offset: at, bytes, file_bytes };
    length.map(|length| at + length as u64 + 1).ok_or(truncated)
}

fn inflate(data: &[u8], size: usize, crc: u32) -> Result<Vec<u8>, Problem> {
    let mut contents = vec![0; size];
    let filled = decompress_slice_iter_to_slice(&mut contents, core::iter::once(data), false, true);
    if filled != Ok(size) {
        let what = "the gzip file's data cannot be unpacked to the size in its trailer";
        return Err(Problem::Corrupt { what });
    }
    if crc32fast::hash(&contents) != crc {
        return Err(Problem::Corrupt { what: "the gzip file's checksum is another" });
    }
    Ok(contents)
}

fn field(field: &'static str, value: u8, remedy: &'static str) -> Problem {
    Problem::Field { field, value: value.into(), remedy }
}
