// WebP to pixels with libwebp: the first frame on its canvas, as WebPAnimDecoder in Pillow gives it.
#include <webp/decode.h>
#include <webp/demux.h>

#include <memory>

#include "image/decode.hpp"
#include "image/plain_files.hpp"

namespace oce::core {
namespace {

struct DeleteDemuxer {
    void operator()(WebPDemuxer* demuxer) const { WebPDemuxDelete(demuxer); }
};

struct Frame : WebPIterator {
    Frame() : WebPIterator{} {}
    ~Frame() { WebPDemuxReleaseIterator(this); }
    Frame(const Frame&) = delete;
    Frame& operator=(const Frame&) = delete;
};

bool fits(const Frame& frame, const WebPBitstreamFeatures& features, const Pixels& canvas) {
    return frame.x_offset >= 0 && frame.y_offset >= 0 && frame.width == features.width && frame.height == features.height &&
           frame.width <= canvas.width - frame.x_offset && frame.height <= canvas.height - frame.y_offset;
}

}  // namespace

Pixels decode_webp(const Encoded& file) {
    const WebPData data{reinterpret_cast<const std::uint8_t*>(file.data.data()), file.data.size()};
    WebPBitstreamFeatures features;
    if (WebPGetFeatures(data.bytes, data.size, &features) != VP8_STATUS_OK) throw damaged(file.name, "its header is no WebP's");
    // The demuxer refuses files that end too early even where the pixels are complete, as Pillow does.
    const std::unique_ptr<WebPDemuxer, DeleteDemuxer> demuxer(WebPDemux(&data));
    if (!demuxer) throw damaged(file.name, "the file ends too early, or its parts contradict each other");
    const std::uint32_t width = WebPDemuxGetI(demuxer.get(), WEBP_FF_CANVAS_WIDTH);
    const std::uint32_t height = WebPDemuxGetI(demuxer.get(), WEBP_FF_CANVAS_HEIGHT);
    file.check_size(width, height);
    // Pillow has a limit of its own for this format, which the caller's limit does not raise.
    if (file.plain && std::uint64_t{width} * height > kMaxPlainPixels) throw damaged(file.name, "it has very many pixels");
    const Kind kind = features.has_alpha != 0 ? Kind::rgba : Kind::rgb;

    Frame frame;
    if (WebPDemuxGetFrame(demuxer.get(), 1, &frame) == 0) throw damaged(file.name, "it has no picture");
    Pixels pixels(kind, static_cast<int>(width), static_cast<int>(height));
    const WebPData& part = frame.fragment;
    if (WebPGetFeatures(part.bytes, part.size, &features) != VP8_STATUS_OK || !fits(frame, features, pixels)) {
        throw damaged(file.name, "its first frame does not fit");
    }
    if (frame.width != pixels.width || frame.height != pixels.height) {  // the rest of the canvas is transparent black
        std::memset(pixels.data.get(), 0, static_cast<std::size_t>(pixels.stride()) * static_cast<std::size_t>(pixels.height));
    }
    std::uint8_t* begin = pixels.row(frame.y_offset) + static_cast<std::ptrdiff_t>(frame.x_offset) * 4;
    const auto room = static_cast<std::size_t>(pixels.row(pixels.height) - begin);
    if (pixels.stride() > INT32_MAX ||
        WebPDecodeRGBAInto(part.bytes, part.size, begin, room, static_cast<int>(pixels.stride())) == nullptr) {
        throw damaged(file.name, "its pixels cannot be decoded");
    }
    return pixels;
}

}  // namespace oce::core
