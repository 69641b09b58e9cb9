pub(super) const PANIC: &[u8] = b"#panic#";
