import Foundation
import Testing

@testable import DemoCore

/// A bundle's files from a folder, by a line that breaks off or a server that knows no ranges.
private struct WeakTransport: Transport {
  /// Where each file was asked for from.
  actor Asked {
    private(set) var offsets: [String: [Int]] = [:]

    func note(_ path: String, _ offset: Int) {
      offsets[path, default: []].append(offset)
    }
  }

  let folder: URL
  var knowsRanges = true
  /// Bytes of each answer before it breaks off.
  var breaksAfter = Int.max
  let asked = Asked()

  func fetch(_ path: String, from offset: Int) async throws -> Answer {
    await asked.note(path, offset)
    let whole = try await FolderTransport(folder: folder).fetch(path, from: knowsRanges ? offset : 0)
    var left = path == ManifestReader.file ? Int.max : breaksAfter
    var parts: [Data] = []
    for try await data in whole.bytes where left > 0 {
      parts.append(data.prefix(left))
      left -= data.count
    }
    let (bytes, sender) = AsyncThrowingStream<Data, any Error>.makeStream()
    for part in parts { sender.yield(part) }
    sender.finish(throwing: left < 0 ? URLError(.networkConnectionLost) : nil)
    return Answer(offset: whole.offset, bytes: bytes)
  }
}

@Suite struct DownloadTests {
  let server = Scratch()
  let device = Scratch()
  let contents = ["a.bin": Data((0..<5000).map { UInt8($0 % 251) }), "folder/b.bin": Data("short".utf8)]

  init() throws {
    for (path, data) in contents { try server.write(data, to: path) }
    try server.write(try manifestData(files: contents), to: ManifestReader.file)
  }

  private func run(_ transport: WeakTransport) async throws {
    _ = try await Download(into: device.url, by: transport).run { _, _ in }
  }

  private func requireWhole() throws {
    let manifest = try ManifestReader.read(bundle: device.url)
    try BundleFiles(folder: device.url).verify(manifest)
  }

  @Test func allFilesArrive() async throws {
    try await run(WeakTransport(folder: server.url))
    try requireWhole()
  }

  @Test func anInterruptedFileGoesOnWhereItWasCut() async throws {
    await #expect(throws: URLError.self) { try await run(WeakTransport(folder: server.url, breaksAfter: 2000)) }
    #expect(!FileManager.default.fileExists(atPath: device.url.appending(path: ManifestReader.file).path))
    let transport = WeakTransport(folder: server.url)
    try await run(transport)
    #expect(await transport.asked.offsets["a.bin"] == [2000])
    try requireWhole()
  }

  @Test func aServerWithoutRangesBeginsAnew() async throws {
    await #expect(throws: URLError.self) { try await run(WeakTransport(folder: server.url, breaksAfter: 2000)) }
    try await run(WeakTransport(folder: server.url, knowsRanges: false))
    try requireWhole()
  }

  @Test func aDamagedFileIsRefusedAndFetchedAnew() async throws {
    var damaged = try #require(contents["a.bin"])
    damaged[17] ^= 1
    try server.write(damaged, to: "a.bin")
    await #expect(throws: UserError.self) { try await run(WeakTransport(folder: server.url)) }
    try server.write(try #require(contents["a.bin"]), to: "a.bin")
    try await run(WeakTransport(folder: server.url))
    try requireWhole()
  }

  /// A file changes, its size does not.
  private func exportAgain() throws {
    var changed = contents
    changed["a.bin"] = Data(try #require(contents["a.bin"]).reversed())
    for (path, data) in changed { try server.write(data, to: path) }
    try server.write(try manifestData(files: changed), to: ManifestReader.file)
  }

  @Test func anotherBundleOfTheSameNameAndSizesReplacesTheOld() async throws {
    try await run(WeakTransport(folder: server.url))
    try exportAgain()
    let transport = WeakTransport(folder: server.url)
    try await run(transport)
    try requireWhole()
    #expect(await transport.asked.offsets["folder/b.bin"] == nil, "control: what is equal is kept")
  }

  @Test func aBundleThatIsHalfReplacedIsNone() async throws {
    try await run(WeakTransport(folder: server.url))
    try exportAgain()
    await #expect(throws: URLError.self) { try await run(WeakTransport(folder: server.url, breaksAfter: 2000)) }
    #expect(throws: UserError.self) { try ManifestReader.read(bundle: device.url) }
    try await run(WeakTransport(folder: server.url))
    try requireWhole()
  }

  @Test func anAddressWithoutABundleLeavesTheOldOne() async throws {
    try await run(WeakTransport(folder: server.url))
    try server.write(Data("Not found".utf8), to: ManifestReader.file)
    await #expect(throws: UserError.self) { try await run(WeakTransport(folder: server.url)) }
    try requireWhole()
  }

  @Test func controlAFlippedBitIsNoticed() async throws {
    try await run(WeakTransport(folder: server.url))
    var damaged = try #require(contents["a.bin"])
    damaged[4999] ^= 1
    try device.write(damaged, to: "a.bin")
    #expect(throws: UserError.self) { try requireWhole() }
  }
}
