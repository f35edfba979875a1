// PNG to pixels with libpng, in the modes that Pillow gives.
#include <png.h>

#include <bit>
#include <climits>
#include <csetjmp>
#include <cstdio>

#include "image/decode.hpp"

namespace oce::core {
namespace {

class PngReader {
public:
    explicit PngReader(const Encoded& file)
        : name_(file.name), check_size_(file.check_size), left_(file.data), plain_(file.plain) {}
    ~PngReader() { png_destroy_read_struct(&png_, &info_, nullptr); }
    PngReader(const PngReader&) = delete;
    PngReader& operator=(const PngReader&) = delete;

    Pixels read();

private:
    [[noreturn]] static void fail(png_structp png, png_const_charp message);
    static void warn(png_structp png, png_const_charp message);
    static void take(png_structp png, png_bytep to, std::size_t count);
    void open();
    Kind choose_output();
    void read_palette(Pixels& pixels);

    /// Run a step that calls libpng. Where it fails, libpng jumps back here over frames that have no destructors: a step only
    /// captures references, and makes no objects.
    template <typename Step>
    void guarded(Step step) {
        if (!runs(step)) throw damaged(name_, message_);
    }

    template <typename Step>
    bool runs(Step& step) {
        if (setjmp(jump_) != 0) return false;
        step();
        return true;
    }

    const std::string& name_;
    const std::function<void(std::int64_t, std::int64_t)>& check_size_;
    std::string_view left_;
    const bool plain_;
    png_structp png_ = nullptr;
    png_infop info_ = nullptr;
    std::jmp_buf jump_{};
    char message_[200] = "libpng has no memory";
};

void PngReader::fail(png_structp png, png_const_charp message) {
    auto* reader = static_cast<PngReader*>(png_get_error_ptr(png));
    std::snprintf(reader->message_, sizeof reader->message_, "%s", message);
    std::longjmp(reader->jump_, 1);
}

void PngReader::warn(png_structp png, png_const_charp message) {
    if (static_cast<PngReader*>(png_get_error_ptr(png))->plain_) fail(png, message);
}

void PngReader::take(png_structp png, png_bytep to, std::size_t count) {
    auto* reader = static_cast<PngReader*>(png_get_io_ptr(png));
    if (count > reader->left_.size()) fail(png, "the file ends too early");
    std::memcpy(to, reader->left_.data(), count);
    reader->left_.remove_prefix(count);
}

void PngReader::open() {
    guarded([this] {
        png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, fail, warn);
        if (png_ == nullptr) std::longjmp(jump_, 1);
        info_ = png_create_info_struct(png_);
        if (info_ == nullptr) std::longjmp(jump_, 1);
        png_set_read_fn(png_, this, take);
        // The caller's limit holds, not libpng's million of a side.
        png_set_user_limits(png_, INT_MAX, INT_MAX);
        // As in Pillow, a wrong checksum of any chunk before the pixels is an error.
        png_set_crc_action(png_, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
        // Texts, profiles and times change no pixel; unread, they cannot take memory.
        png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_NEVER, nullptr, -1);
        png_read_info(png_, info_);
        // And that of the pixels is not looked at.
        if (!plain_) png_set_crc_action(png_, PNG_CRC_QUIET_USE, PNG_CRC_QUIET_USE);
    });
}

Kind PngReader::choose_output() {
    const int depth = png_get_bit_depth(png_, info_), type = png_get_color_type(png_, info_);
    if (type == PNG_COLOR_TYPE_PALETTE) {
        png_set_packing(png_);
        return Kind::palette;
    }
    if (type == PNG_COLOR_TYPE_GRAY) {
        if (depth == 16) {
            if constexpr (std::endian::native == std::endian::little) png_set_swap(png_);
            return Kind::grey16;
        }
        if (depth < 8) png_set_expand_gray_1_2_4_to_8(png_);
        return depth == 1 ? Kind::bit : Kind::grey;
    }
    if (depth == 16) png_set_strip_16(png_);
    if (type == PNG_COLOR_TYPE_GRAY_ALPHA) png_set_gray_to_rgb(png_);
    if (type == PNG_COLOR_TYPE_RGB) png_set_filler(png_, 0xff, PNG_FILLER_AFTER);
    return type == PNG_COLOR_TYPE_RGB ? Kind::rgb : Kind::rgba;
}

void PngReader::read_palette(Pixels& pixels) {
    png_colorp colors = nullptr;
    int count = 0;
    png_get_PLTE(png_, info_, &colors, &count);
    std::uint8_t* to = pixels.palette.data();
    for (int i = 0; i < count && i < 256; ++i) {
        *to++ = colors[i].red;
        *to++ = colors[i].green;
        *to++ = colors[i].blue;
    }
}

Pixels PngReader::read() {
    open();
    check_size_(png_get_image_width(png_, info_), png_get_image_height(png_, info_));
    Kind kind = Kind::rgb;
    int passes = 1;
    guarded([&] {
        kind = choose_output();
        passes = png_set_interlace_handling(png_);
        png_read_update_info(png_, info_);
    });
    Pixels pixels(kind, static_cast<int>(png_get_image_width(png_, info_)), static_cast<int>(png_get_image_height(png_, info_)));
    if (static_cast<std::ptrdiff_t>(png_get_rowbytes(png_, info_)) != pixels.stride()) throw damaged(name_, "unknown kind of PNG");
    if (kind == Kind::palette) read_palette(pixels);
    guarded([&] {
        for (int pass = 0; pass < passes; ++pass) {
            for (int y = 0; y < pixels.height; ++y) png_read_row(png_, pixels.row(y), nullptr);
        }
    });
    return pixels;
}

}  // namespace

Pixels decode_png(const Encoded& file) {
    PngReader reader(file);
    return reader.read();
}

}  // namespace oce::core
