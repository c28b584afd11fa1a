/// What runs the packages of a bundle: Core ML in the app, the evaluator of `runtime/mil` in `make test-ios`.
public protocol PackageRunner: Sendable {
  /// New caches, of zeros.
  func reset() async throws

  /// Through all chunks, each with its own caches.
  ///
  /// - Parameters:
  ///   - function: `decode` or `prefill`.
  ///   - inputs: by name; each chunk takes those that its function names, in the dtype that the manifest says.
  ///   - row: the position whose hidden state is returned, `[1, 1, hidden]`.
  func runChunks(_ function: String, _ inputs: [String: Tensor], row: Int) async throws -> Tensor

  /// Through all heads: `[1, 1, hidden]` -> logits `[vocabulary]`.
  func runHeads(_ hidden: Tensor) async throws -> [Float]

  /// Soft tokens `[1, n, hidden]` of the embedder `vision` or `speech`.
  func embed(_ role: String, _ inputs: [String: Tensor]) async throws -> Tensor
}
