//! Archives that the kernel unpacks as its first file system: cpio in the format "newc"
//! (Documentation/driver-api/early-userspace/buffer-format.rst). Several of them may follow each other in one file.

/// What a path is.
const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
/// The entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// An archive in the making.
#[derive(Default)]
pub struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
}

impl Cpio {
    /// A directory; what is above it has to be there.
    pub fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY, &[]);
    }

    /// A file that can be executed.
    pub fn file(&mut self, path: &str, content: &[u8]) {
        self.entry(path, PROGRAM, content);
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let size = u32::try_from(content.len()).expect("no file of a gigabyte is put into it");
        let name_size = u32::try_from(path.len() + 1).expect("a path is short");
        // Inode, mode, owner, group, links, time, size, device, device node, size of the name, no checksum.
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(path.bytes().chain([0]));
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_headers_names_and_contents_each_to_a_multiple_of_four() {
        let mut cpio = Cpio::default();
        cpio.directory("bin");
        cpio.file("bin/sh", b"#!");
        let bytes = cpio.finish();
        let text = String::from_utf8(bytes).unwrap();
        let directory = "070701".to_owned()
            + "00000001000041ed000000000000000000000001000000000000000000000000000000000000000000000000"
            + "0000000400000000bin\0\0\0";
        assert!(text.starts_with(&directory), "{text:?}");
        assert!(text[directory.len()..].starts_with("07070100000002000081ed"), "{text:?}");
        assert!(
            text.contains("bin/sh\0\0\0\0#!\0\0"),
            "padded after the name, and after the content: {text:?}"
        );
        assert!(text.ends_with("TRAILER!!!\0\0\0\0"), "{text:?}");
        assert_eq!(text.len() % 4, 0);
    }
}
