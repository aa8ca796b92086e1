//! What a file of many pieces costs: to read, to publish and to remove it, and the unmount after that.

use std::time::{Duration, Instant};

use crate::mount::Mount;
use crate::support::s3server::TestS3;
use crate::workloads::{self, ENTRIES, PAGE, Shape};
use crate::{Bench, NEVER, requests};

/// Blocks of this size instead of a page, where there are a million of them.
const SMALL_BLOCK: usize = 512;

/// Wall clock, processor time of the program, and requests.
pub struct Cost(pub Duration, pub Duration, pub String);

impl Cost {
    pub fn of(
        mount: &mut Mount,
        server: &TestS3,
        work: impl FnOnce(&mut Mount) -> Duration,
    ) -> Cost {
        let before = mount.processor();
        requests(server);
        let time = work(mount);
        Cost(time, mount.processor() - before, requests(server))
    }

    fn of_end(mount: Mount, server: &TestS3) -> Cost {
        requests(server);
        let (time, processor) = mount.end_using();
        Cost(time, processor, requests(server))
    }
}

fn show(what: &str, Cost(time, processor, requests): Cost) {
    let (time, processor) = (time.as_secs_f64(), processor.as_secs_f64());
    println!("    {what:<22} {time:>9.3} s {processor:>8.2} s of processor  {requests}");
}

impl Bench {
    /// For more and more blocks, beside files in one piece with as many written bytes, and with as large an object.
    pub fn collect(&self) {
        println!(
            "\nfiles of blocks of 4 KiB (a million: of 512 bytes), on a host that never saw them"
        );
        for blocks in [20_000, 40_000, 160_000, 320_000, 1_000_000] {
            let many = blocks > 320_000;
            let block = if many { SMALL_BLOCK } else { PAGE };
            self.scattered(blocks, block, Shape::Holes);
            self.scattered(blocks, block, Shape::Woven);
            self.scattered(blocks, block, Shape::One);
            if !many {
                self.scattered(2 * blocks, block, Shape::One);
            }
        }
    }

    fn scattered(&self, blocks: u64, block: usize, shape: Shape) {
        println!("  {blocks} blocks, {shape:?}");
        let server = TestS3::start();
        let name = |what| format!("collect-{blocks}-{shape:?}-{what}");
        let (mut mount, at) = self.mount(&server, &name("made"), &NEVER);
        show(
            "write and fsync",
            Cost::of(&mut mount, &server, |_| workloads::write_blocks(&at, blocks, block, shape)),
        );
        mount.end();
        let (mut mount, at) = self.mount(&server, &name("read"), &NEVER);
        show("read", Cost::of(&mut mount, &server, |_| workloads::read_blocks(&at)));
        show("rm", Cost::of(&mut mount, &server, |_| workloads::remove_blocks(&at)));
        show("unmount", Cost::of_end(mount, &server));
        drop(server);
        let server = TestS3::start();
        let (mut mount, at) = self.mount(&server, &name("published"), &[]);
        workloads::write_blocks(&at, blocks, block, shape);
        show("publish", Cost::of(&mut mount, &server, |mount| mount.settle()));
        mount.end();
        let object = server.get("bench/blocks").expect("the object").body.len();
        println!("      an object of {object} bytes");
    }

    /// The removal of many files at once.
    pub fn names(&self) {
        println!("\n{ENTRIES} empty files in one directory, never settled");
        let server = TestS3::start();
        let (mut mount, at) = self.mount(&server, "names", &NEVER);
        let many = at.join("many");
        show("create", Cost::of(&mut mount, &server, |_| workloads::create_many(&many)));
        show("rm -r", Cost::of(&mut mount, &server, |_| workloads::remove(&many)));
        show("unmount", Cost::of_end(mount, &server));
    }

    /// What an unmount leaves out where it would take long: the export of more and more extents.
    pub fn exports(&self) {
        println!("\nunmount of a file of so many extents, export included where it is written");
        for blocks in [5_000, 10_000, 19_000, 25_000, 100_000] {
            let server = TestS3::start();
            let (mount, at) = self.mount(&server, &format!("export-{blocks}"), &NEVER);
            workloads::write_blocks(&at, blocks, PAGE, Shape::Holes);
            requests(&server);
            let start = Instant::now();
            mount.end();
            let time = start.elapsed().as_secs_f64();
            let written = server.keys("").iter().any(|key| key.contains("/export/"));
            println!("  {blocks:>7} {time:.3} s, exported: {written}; {}", requests(&server));
        }
    }
}
