import DemoCore
import Foundation

/// A bundle's folder on a web server, best one that knows `Range`.
struct WebTransport: Transport {
  let base: URL

  func fetch(_ path: String, from offset: Int) async throws -> Answer {
    var request = URLRequest(url: base.appending(path: path))
    if offset > 0 { request.setValue("bytes=\(offset)-", forHTTPHeaderField: "Range") }
    let receiver = Receiver()
    let response = try await receiver.start(request)
    switch response.statusCode {
    case 206: return Answer(offset: offset, bytes: receiver.bytes)
    case 200: return Answer(offset: 0, bytes: receiver.bytes)
    case 416: return Answer(offset: 0, bytes: AsyncThrowingStream { nil })  // it has no such part: another file
    default: throw UserError("\(path): the server answers \(response.statusCode): look at the address")
    }
  }
}

/// One answer: its head first, then its bytes in the pieces that they arrive in.
private final class Receiver: NSObject, URLSessionDataDelegate, Sendable {
  let bytes: AsyncThrowingStream<Data, any Error>
  private let body: AsyncThrowingStream<Data, any Error>.Continuation
  private let heads: AsyncThrowingStream<HTTPURLResponse, any Error>
  private let head: AsyncThrowingStream<HTTPURLResponse, any Error>.Continuation

  override init() {
    (bytes, body) = AsyncThrowingStream.makeStream()
    (heads, head) = AsyncThrowingStream.makeStream()
  }

  func start(_ request: URLRequest) async throws -> HTTPURLResponse {
    let session = URLSession(configuration: .default, delegate: self, delegateQueue: nil)
    let task = session.dataTask(with: request)
    body.onTermination = { _ in task.cancel() }
    task.resume()
    session.finishTasksAndInvalidate()
    for try await response in heads { return response }
    throw URLError(.badServerResponse)
  }

  func urlSession(
    _ session: URLSession, dataTask: URLSessionDataTask, didReceive response: URLResponse
  ) async -> URLSession.ResponseDisposition {
    guard let response = response as? HTTPURLResponse else { return .cancel }
    head.yield(response)
    return .allow
  }

  func urlSession(_ session: URLSession, dataTask: URLSessionDataTask, didReceive data: Data) {
    body.yield(data)
  }

  func urlSession(_ session: URLSession, task: URLSessionTask, didCompleteWithError error: (any Error)?) {
    head.finish(throwing: error)
    body.finish(throwing: error)
  }
}
