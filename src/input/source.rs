//! Files as plain bytes: finding them, counting what was read of them, undoing compression.
//!
//! Compression is recognised by content, not by name: gzip (any number of members) and zstd (any number of frames).
//!
//! Owns: paths, byte progress, decompression. Does not own: lines and records (lines, csv, reader).

use std::fs::{self, File};
use std::io::{self, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::InputError;
use super::pipe::Pipe;

const BUFFER: usize = 64 << 10;

/// Standard input, as a path.
pub(super) const STDIN: &str = "-";

/// Every file behind these paths. A directory means every file in it, deep, in the order of names; names that begin with `.`
/// or `_` are left out, as Hive and Spark do.
pub(super) fn expand(paths: &[PathBuf]) -> Result<Vec<PathBuf>, InputError> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            walk(path, &mut files)?;
        } else {
            files.push(path.clone());
        }
    }
    Ok(files)
}

fn walk(dir: &Path, files: &mut Vec<PathBuf>) -> Result<(), InputError> {
    let list = || fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>();
    let mut entries = list().map_err(|error| InputError::open(dir, error))?;
    entries.sort();
    for entry in entries {
        let name = entry.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with(['.', '_']) {
            continue;
        }
        if entry.is_dir() {
            walk(&entry, files)?;
        } else if entry.is_file() {
            files.push(entry);
        }
    }
    Ok(())
}

/// Length of all files together; none if one of them has no length, as standard input.
pub(super) fn total_len(files: &[PathBuf]) -> Result<Option<u64>, InputError> {
    let mut total = 0;
    for file in files {
        if file.as_os_str() == STDIN {
            return Ok(None);
        }
        let metadata = fs::metadata(file).map_err(|error| InputError::open(file, error))?;
        if !metadata.is_file() {
            return Ok(None);
        }
        total += metadata.len();
    }
    Ok(Some(total))
}

/// An opened file.
pub(super) struct Source {
    /// Its bytes, decompressed unless asked otherwise.
    pub(super) bytes: Box<dyn Read + Send>,
    /// Standard input can be asked whether a read would wait.
    pub(super) pipe: Option<Pipe>,
}

/// Opens a file; what is read from it, compressed, is added to `consumed`.
pub(super) fn open(path: &Path, consumed: &Arc<AtomicU64>, decompress: bool) -> io::Result<Source> {
    let pipe = if path.as_os_str() == STDIN { Some(Pipe::start(io::stdin())?) } else { None };
    let plain: Box<dyn Read + Send> = match &pipe {
        Some(pipe) => Box::new(pipe.clone()),
        None => Box::new(File::open(path)?),
    };
    let counted = Counted { inner: plain, consumed: consumed.clone() };
    let bytes = if decompress { decompressed(counted)? } else { Box::new(counted) };
    Ok(Source { bytes, pipe })
}

fn decompressed(mut input: Counted) -> io::Result<Box<dyn Read + Send>> {
    let mut magic = Vec::with_capacity(4);
    input.by_ref().take(4).read_to_end(&mut magic)?;
    let is_gzip = magic.starts_with(&[0x1f, 0x8b]);
    // A zstd file may begin with a skippable frame.
    let is_zstd = magic == [0x28, 0xb5, 0x2f, 0xfd] || matches!(magic[..], [0x50..=0x5f, 0x2a, 0x4d, 0x18]);
    let input = BufReader::with_capacity(BUFFER, Cursor::new(magic).chain(input));
    Ok(if is_gzip {
        Box::new(flate2::bufread::MultiGzDecoder::new(input))
    } else if is_zstd {
        Box::new(zstd::stream::read::Decoder::with_buffer(input)?)
    } else {
        Box::new(input)
    })
}

struct Counted {
    inner: Box<dyn Read + Send>,
    consumed: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buffer)?;
        self.consumed.fetch_add(len as u64, Ordering::Relaxed);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn read_file(data: &[u8]) -> io::Result<Vec<u8>> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        fs::write(&path, data).expect("writes");
        let consumed = Arc::new(AtomicU64::new(0));
        let mut back = Vec::new();
        open(&path, &consumed, true)?.bytes.read_to_end(&mut back)?;
        assert_eq!(consumed.load(Ordering::Relaxed), data.len() as u64);
        Ok(back)
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).expect("compresses");
        encoder.finish().expect("compresses")
    }

    #[test]
    fn compression_is_recognised_by_content_and_every_member_and_frame_is_read() {
        let zstd = |data: &[u8]| zstd::encode_all(data, 1).expect("compresses");
        let skippable = [0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9];
        assert_eq!(read_file(b"plain").expect("reads"), b"plain");
        assert_eq!(read_file(b"").expect("reads"), b"");
        assert_eq!(read_file(&[0x1f]).expect("reads"), [0x1f]);
        assert_eq!(read_file(&[gzip(b"a"), gzip(b"b")].concat()).expect("reads"), b"ab");
        assert_eq!(read_file(&[zstd(b"a"), zstd(b"b")].concat()).expect("reads"), b"ab");
        assert_eq!(read_file(&[&skippable[..], &zstd(b"a")].concat()).expect("reads"), b"a");
    }

    #[test]
    fn a_compressed_file_that_was_cut_anywhere_is_an_error_and_never_a_short_file() {
        let data: Vec<u8> = (0..3000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        for whole in [gzip(&data), zstd::encode_all(&data[..], 1).expect("compresses")] {
            for cut in (4..whole.len()).step_by(97).chain([whole.len() - 1]) {
                let dir = tempfile::tempdir().expect("a directory");
                let path = dir.path().join("file");
                fs::write(&path, &whole[..cut]).expect("writes");
                let mut source = open(&path, &Arc::default(), true).expect("opens");
                assert!(source.bytes.read_to_end(&mut Vec::new()).is_err(), "cut at {cut} of {}", whole.len());
            }
        }
    }

    #[test]
    fn a_directory_means_its_files_in_order_of_names_without_the_hidden_ones() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(dir.path().join("b/c")).expect("creates");
        for name in ["z", "b/c/1", "a", ".hidden", "_SUCCESS", "b/2"] {
            fs::write(dir.path().join(name), name).expect("writes");
        }
        let files = expand(&[dir.path().to_owned()]).expect("lists");
        let names: Vec<_> =
            files.iter().map(|file| file.strip_prefix(dir.path()).expect("inside").display().to_string()).collect();
        assert_eq!(names, ["a", "b/2", "b/c/1", "z"]);
        assert_eq!(total_len(&files).expect("lengths"), Some(10));
        assert_eq!(total_len(&[STDIN.into()]).expect("no length"), None);
        assert!(total_len(&["/nowhere/at/all".into()]).is_err());
    }
}
