//! Files that somebody writes to.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_file_is_not_settled_before_its_first_writer_closes_it() {
    let world = Settled::new().await;
    let stop = CancellationToken::new();
    let running = tokio::spawn(Arc::clone(&world.settler).run(stop.clone()));
    // Held from the first byte: what is sent too early is seen.
    world.server.fault(Rule::always(Some(Op::Put), "data/f", Action::Hold));
    let fs = Arc::clone(&world.fs);
    let mut open = Vec::new();
    for number in 0..300 {
        let name = named(&format!("f{number}"));
        let made = fs.create(Caller::ROOT, Ino::ROOT, name, 0o644, libc::O_WRONLY).await;
        let (attr, opened) = made.unwrap();
        open.push((attr.ino, opened.fh));
    }
    assert_eq!(world.server.held(), 0, "a file was sent while it was open");
    world.server.clear_faults();
    for (ino, fh) in open {
        fs.write(ino, fh, 0, "written".into(), false).await.unwrap();
        fs.release(ino, fh).await.unwrap();
    }
    let rests = |number| world.object(&format!("f{number}")).as_deref() == Some("written");
    until("all at rest", || (0..300).all(rests)).await;
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_rested_and_became_mostly_holes_says_so_at_once() {
    let world = Settled::new().await;
    let file = world.file("sparse", "small").await;
    world.settle().await;
    assert_eq!(world.object("sparse").as_deref(), Some("small"));
    let stop = CancellationToken::new();
    let running = tokio::spawn(Arc::clone(&world.settler).run(stop.clone()));
    world.volume.write(&file, 1 << 40, b"far").await.unwrap();
    world.volume.commit(vec![Arc::clone(&file)]).await.unwrap();
    let said = || world.settler.status().unsettleable.iter().any(|why| why.contains("holes"));
    until("it says what stays in motion", said).await;
    stop.cancel();
    running.await.unwrap();
}
