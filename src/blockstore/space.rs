//! How much room the file system of a folder has.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::Serialize;

/// Of the file system that holds a path, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DiskSpace {
    pub total: u64,
    /// What this process may still use.
    pub free: u64,
}

impl DiskSpace {
    /// `None` when the system does not say. May wait for a network file system: not for the request path.
    pub fn of(path: &Path) -> Option<Self> {
        let path = CString::new(path.as_os_str().as_bytes()).ok()?;
        let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
        // SAFETY: a NUL-terminated path and a pointer to a statvfs of this frame, read only when the call succeeded.
        let stat = unsafe {
            if libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) != 0 {
                return None;
            }
            stat.assume_init()
        };
        #[allow(clippy::unnecessary_cast)] // the types differ between platforms
        let bytes = |blocks| (blocks as u64).saturating_mul(stat.f_frsize as u64);
        Some(Self { total: bytes(stat.f_blocks), free: bytes(stat.f_bavail) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_room_and_a_missing_one_is_not_known() {
        let dir = tempfile::tempdir().unwrap();
        let space = DiskSpace::of(dir.path()).unwrap();
        assert!(space.total > 0 && space.free <= space.total);
        assert_eq!(DiskSpace::of(&dir.path().join("missing")), None);
    }
}
