//! NCCL: ranks with a device each, connected by a [`Communicator`]. Nothing here blocks: communicators are set up and
//! called without it and then asked after, and between two questions the caller says whether to go on ([`GoOn`]), so that
//! time-outs and calls to come away are its business. A communicator that failed, was given up or is dropped is aborted:
//! what it had begun on the device ends.
//!
//! Everything happens on a stream of its own beside the device's ([`SideStream`]). [`sum`] is what training does with it.

mod library;
pub mod sum;

pub(super) use library::lacking;
pub use library::{Nccl, UniqueId};
pub use sum::{DeviceSum, SumMode};

use super::gpu::{Gpu, SideStream};
use crate::error::{Error, Result};
use cudarc::nccl::sys::{ncclComm_t, ncclDataType_t, ncclRedOp_t};
use library::{Config, IN_PROGRESS, SUCCESS, Status};
use std::ffi::{c_int, c_void};
use std::sync::Arc;

/// Asked between two looks at what is under way: `false` gives it up. It is its business to wait a little.
pub type GoOn<'a> = &'a mut dyn FnMut() -> bool;

const OP: &str = "collective";
const FLOAT: ncclDataType_t = ncclDataType_t::ncclFloat32;
const SUM: ncclRedOp_t = ncclRedOp_t::ncclSum;

/// A rank's end of a group of devices. Addresses are of f32 on its device; counts are of f32.
pub struct Communicator {
    library: Arc<Nccl>,
    /// Null once it is over.
    handle: ncclComm_t,
    side: SideStream,
    rank: usize,
    world: usize,
}

// SAFETY: a communicator may be used by any thread, by one at a time, which `&mut` and the absence of `Sync` see to.
unsafe impl Send for Communicator {}

/// Operations that are begun together, see [`Communicator::group`].
pub struct Calls<'c>(&'c Communicator);

fn read(address: u64) -> *const c_void {
    address as *const c_void
}

fn write(address: u64) -> *mut c_void {
    address as *mut c_void
}

impl Calls<'_> {
    fn said(&self, call: &'static str, status: Status) -> Result<()> {
        match status {
            SUCCESS | IN_PROGRESS => Ok(()),
            status => Err(self.0.library.failure(call, status, self.0.handle)),
        }
    }

    /// `count` numbers from `at` to the rank `peer`, which receives as many. Also to itself.
    pub fn send(&self, at: u64, count: usize, peer: usize) -> Result<()> {
        let Communicator { handle, side, library, .. } = self.0;
        // SAFETY: memory of this device, by the caller's promise; the handle lives.
        let status = unsafe { (library.functions.send)(read(at), count, FLOAT, peer as c_int, *handle, side.handle()) };
        self.said("ncclSend", status)
    }

    /// `count` numbers of the rank `peer` to `to`.
    pub fn recv(&self, to: u64, count: usize, peer: usize) -> Result<()> {
        let Communicator { handle, side, library, .. } = self.0;
        // SAFETY: as in `send`.
        let status =
            unsafe { (library.functions.recv)(write(to), count, FLOAT, peer as c_int, *handle, side.handle()) };
        self.said("ncclRecv", status)
    }

    /// The sum over the ranks, to all, in place. In which order it is summed, the library decides.
    pub fn all_reduce(&self, at: u64, count: usize) -> Result<()> {
        let Communicator { handle, side, library, .. } = self.0;
        // SAFETY: as in `send`.
        let status =
            unsafe { (library.functions.all_reduce)(read(at), write(at), count, FLOAT, SUM, *handle, side.handle()) };
        self.said("ncclAllReduce", status)
    }

    /// Of the sum over the ranks of `world * count` numbers at `from`, the rank's own `count` to `to`.
    pub fn reduce_scatter(&self, from: u64, to: u64, count: usize) -> Result<()> {
        let Communicator { handle, side, library, .. } = self.0;
        // SAFETY: as in `send`.
        let status = unsafe {
            (library.functions.reduce_scatter)(read(from), write(to), count, FLOAT, SUM, *handle, side.handle())
        };
        self.said("ncclReduceScatter", status)
    }

    /// `count` numbers of each rank, that of rank r at `at` plus r times `count`, to all, in place.
    pub fn all_gather(&self, at: u64, count: usize) -> Result<()> {
        let Communicator { handle, side, library, rank, .. } = self.0;
        let own = at + (rank * count * size_of::<f32>()) as u64;
        // SAFETY: as in `send`.
        let status =
            unsafe { (library.functions.all_gather)(read(own), write(at), count, FLOAT, *handle, side.handle()) };
        self.said("ncclAllGather", status)
    }

    /// `count` numbers of the rank `root` to all, in place.
    pub fn broadcast(&self, at: u64, count: usize, root: usize) -> Result<()> {
        let Communicator { handle, side, library, .. } = self.0;
        // SAFETY: as in `send`.
        let status = unsafe {
            (library.functions.broadcast)(read(at), write(at), count, FLOAT, root as c_int, *handle, side.handle())
        };
        self.said("ncclBroadcast", status)
    }
}

impl Communicator {
    /// Meets the other ranks of `world`, who do the same with the same id. Each has a device of its own.
    ///
    /// # Errors
    /// [`Error::Collective`]: the library's words, or that it was given up; [`Error::Device`].
    pub fn new(
        library: &Arc<Nccl>,
        gpu: &Arc<Gpu>,
        id: UniqueId,
        rank: usize,
        world: usize,
        go_on: GoOn<'_>,
    ) -> Result<Communicator> {
        if rank >= world || c_int::try_from(world).is_err() {
            return Err(Error::value(OP, format!("a rank below {world}"), rank));
        }
        let side = SideStream::new(gpu)?;
        let mut config = Config::without_blocking();
        let mut made = Communicator { library: library.clone(), handle: std::ptr::null_mut(), side, rank, world };
        made.side.enter(OP)?;
        // The library may still write the handle when it has been given up: then its place stays.
        let place = Box::into_raw(Box::new(std::ptr::null_mut()));
        // SAFETY: all pointers are valid for the call, which copies the configuration; the place is until it is done.
        let status = unsafe {
            let (world, rank) = (world as c_int, rank as c_int);
            (library.functions.init)(place, world, id.as_library(), rank, &raw mut config)
        };
        // SAFETY: as above; a thread of the library may write it meanwhile.
        let read = || unsafe { place.read_volatile() };
        while status == IN_PROGRESS && read().is_null() && go_on() {}
        made.handle = read();
        made.settle("ncclCommInitRankConfig", status, go_on)?;
        // SAFETY: made above, and the library is done with it.
        drop(unsafe { Box::from_raw(place) });
        Ok(made)
    }

    pub fn rank(&self) -> usize {
        self.rank
    }

    pub fn world(&self) -> usize {
        self.world
    }

    /// The stream on which its operations happen.
    pub fn side(&self) -> &SideStream {
        &self.side
    }

    /// Begins operations together: all that are named in `calls`, on the stream, in one go.
    ///
    /// # Errors
    /// As [`Communicator::new`]; after one the communicator is over.
    pub fn group(&mut self, calls: impl FnOnce(&Calls<'_>) -> Result<()>, go_on: GoOn<'_>) -> Result<()> {
        self.alive("ncclGroupStart")?;
        self.side.enter(OP)?;
        // SAFETY: needs nothing; the end follows.
        let begun = unsafe { (self.library.functions.group_start)() };
        let called = if begun == SUCCESS { calls(&Calls(self)) } else { Ok(()) };
        // SAFETY: after a start.
        let ended = if begun == SUCCESS { unsafe { (self.library.functions.group_end)() } } else { begun };
        if let Err(error) = called {
            self.abort();
            return Err(error);
        }
        self.settle("ncclGroupEnd", ended, go_on)
    }

    /// Whether all that was begun before the last mark of its stream is done. Waits for nothing.
    ///
    /// # Errors
    /// As [`Communicator::group`]: what went wrong since, here or at another rank, as far as the library was told.
    pub fn is_done(&mut self) -> Result<bool> {
        self.alive("ncclCommGetAsyncError")?;
        match self.ask() {
            SUCCESS => self.side.is_done(OP),
            IN_PROGRESS => Ok(false),
            status => Err(self.fail("ncclCommGetAsyncError", status)),
        }
    }

    /// Ends what it has begun, here; the other ranks wait for what does not come. Nothing can be asked of it after.
    pub fn abort(&mut self) {
        let handle = std::mem::replace(&mut self.handle, std::ptr::null_mut());
        if !handle.is_null() && self.side.enter(OP).is_ok() {
            // SAFETY: the handle is not used again. What it says of its end helps nobody.
            unsafe { (self.library.functions.abort)(handle) };
        }
    }

    /// Ends it together with the other ranks, after all that was begun.
    ///
    /// # Errors
    /// As [`Communicator::group`]; it is over in any case.
    pub fn close(mut self, go_on: GoOn<'_>) -> Result<()> {
        self.alive("ncclCommFinalize")?;
        self.side.enter(OP)?;
        // SAFETY: the handle lives.
        let status = unsafe { (self.library.functions.finalize)(self.handle) };
        self.settle("ncclCommFinalize", status, go_on)?;
        let handle = std::mem::replace(&mut self.handle, std::ptr::null_mut());
        // SAFETY: finalized, and not used again.
        match unsafe { (self.library.functions.destroy)(handle) } {
            SUCCESS | IN_PROGRESS => Ok(()),
            status => Err(self.library.failure("ncclCommDestroy", status, std::ptr::null_mut())),
        }
    }

    fn alive(&self, call: &'static str) -> Result<()> {
        if self.handle.is_null() {
            return Err(Error::Collective { call, what: "the communicator was aborted".into() });
        }
        Ok(())
    }

    /// How the call under way stands.
    fn ask(&self) -> Status {
        let mut status = SUCCESS;
        // SAFETY: the handle lives, and the pointer is valid for the call.
        match unsafe { (self.library.functions.async_error)(self.handle, &raw mut status) } {
            SUCCESS => status,
            failed => failed,
        }
    }

    /// Waits for the end of a call.
    fn settle(&mut self, call: &'static str, mut status: Status, go_on: GoOn<'_>) -> Result<()> {
        loop {
            match status {
                SUCCESS => return Ok(()),
                IN_PROGRESS if self.handle.is_null() => {
                    return Err(Error::Collective { call, what: "it is under way without a communicator".into() });
                }
                IN_PROGRESS => {}
                status => return Err(self.fail(call, status)),
            }
            if !go_on() {
                self.abort();
                return Err(Error::Collective { call, what: "given up".into() });
            }
            status = self.ask();
        }
    }

    fn fail(&mut self, call: &'static str, status: Status) -> Error {
        let error = self.library.failure(call, status, self.handle);
        self.abort();
        error
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        // Before its stream, whose end is waited for.
        self.abort();
    }
}
