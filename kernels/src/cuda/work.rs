//! What a machine is to do, collected before it is begun: kernels and zeros, in order. Two steps that come to the same list,
//! to the last argument and address, are the same work, and a machine may keep one whole for the other.

use super::launch::Launch;
use super::machine::{Argument, Kernel, Machine};
use crate::error::Result;
use std::fmt;
use std::ops::Range;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Work {
    parts: Vec<Part>,
    /// Of all kernels, one after the other.
    arguments: Vec<Argument>,
}

/// One thing to do, and what for.
#[derive(Clone, Debug)]
struct Part {
    op: &'static str,
    act: Act,
}

#[derive(Clone, Debug)]
enum Act {
    Start { kernel: Kernel, launch: Launch, arguments: Range<usize> },
    Clear { at: u64, bytes: usize },
}

/// A thing to do, as who does it sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Item<'w> {
    /// As [`Machine::start`].
    Start { kernel: Kernel, launch: Launch, arguments: &'w [Argument] },
    /// As [`Machine::clear`].
    Clear { at: u64, bytes: usize },
}

impl Item<'_> {
    /// For messages.
    pub fn name(&self) -> &'static str {
        match self {
            Item::Start { kernel, .. } => kernel.name,
            Item::Clear { .. } => "zeros",
        }
    }
}

impl Work {
    pub fn start(&mut self, op: &'static str, kernel: Kernel, launch: Launch, arguments: &[Argument]) {
        let from = self.arguments.len();
        self.arguments.extend_from_slice(arguments);
        self.parts.push(Part { op, act: Act::Start { kernel, launch, arguments: from..self.arguments.len() } });
    }

    pub fn clear(&mut self, op: &'static str, at: u64, bytes: usize) {
        self.parts.push(Part { op, act: Act::Clear { at, bytes } });
    }

    pub fn len(&self) -> usize {
        self.parts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Nothing to do; its storage stays.
    pub fn reset(&mut self) {
        self.parts.clear();
        self.arguments.clear();
    }

    /// What there is to do, and what for.
    pub fn items(&self) -> impl Iterator<Item = (&'static str, Item<'_>)> {
        self.parts.iter().map(|part| {
            let item = match &part.act {
                Act::Start { kernel, launch, arguments } => {
                    Item::Start { kernel: *kernel, launch: *launch, arguments: &self.arguments[arguments.clone()] }
                }
                Act::Clear { at, bytes } => Item::Clear { at: *at, bytes: *bytes },
            };
            (part.op, item)
        })
    }

    /// Does it, one after the other.
    ///
    /// # Errors
    /// Those of the machine.
    pub fn run_on<M: Machine + ?Sized>(&self, machine: &M) -> Result<()> {
        self.items().try_for_each(|(op, item)| match item {
            Item::Start { kernel, launch, arguments } => machine.start(op, kernel, launch, arguments),
            Item::Clear { at, bytes } => machine.clear(at, bytes),
        })
    }

    /// Where another begins to be other work than this; none: it is the same.
    pub fn difference(&self, other: &Work) -> Option<Difference> {
        let ours = self.items().map(Some).chain(std::iter::repeat(None));
        let theirs = other.items().map(Some).chain(std::iter::repeat(None));
        let most = self.len().max(other.len());
        let (at, (ours, theirs)) = ours.zip(theirs).take(most).enumerate().find(|(_, (a, b))| a != b)?;
        let [ours, theirs] = [ours, theirs].map(|found| found.map_or("nothing", |(_, item)| item.name()));
        Some(Difference { at, ours, theirs })
    }
}

/// Where two lists part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    at: usize,
    ours: &'static str,
    theirs: &'static str,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { at, ours, theirs } = self;
        match ours == theirs {
            true => write!(f, "{ours}, number {}, has another size or other memory", at + 1),
            false => write!(f, "number {} is {theirs} and was {ours}", at + 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::ELEMENTWISE;

    fn work(numbers: &[u32]) -> Work {
        let mut work = Work::default();
        for number in numbers {
            let launch = Launch { grid: [1; 3], block: [32, 1, 1], shared: 0 };
            work.start("test", Kernel { source: ELEMENTWISE, name: "scale" }, launch, &[Argument::Word(*number)]);
        }
        work
    }

    #[test]
    fn work_is_the_same_to_the_last_argument_or_says_where_it_is_not() {
        let said = |a: &Work, b: &Work| a.difference(b).map(|difference| difference.to_string());
        assert_eq!(said(&work(&[1, 2]), &work(&[1, 2])), None);
        let text = "scale, number 2, has another size or other memory".to_owned();
        assert_eq!(said(&work(&[1, 2]), &work(&[1, 3])), Some(text));
        assert_eq!(said(&work(&[1]), &work(&[1, 2])), Some("number 2 is scale and was nothing".into()));
        let mut cleared = work(&[1]);
        cleared.clear("test", 64, 4);
        assert_eq!(said(&work(&[1, 2]), &cleared), Some("number 2 is zeros and was scale".into()));
        let mut longer = work(&[1]);
        longer.clear("test", 64, 8);
        assert_eq!(said(&cleared, &longer), Some("zeros, number 2, has another size or other memory".into()));
        cleared.reset();
        assert!(cleared.is_empty() && cleared.items().next().is_none());
    }
}
