// Damaged and hostile bytes into everything of csrc that reads them, under the sanitizers of the compiler.
//
//     fuzz SEED ROUNDS FOLDER [IMAGE ...]
//
// A round damages a good shard (bits, cuts, runs of one byte, absurd numbers, pieces of itself), then recovers it,
// appends to it, lists it and reads from it, alone and in batches; it damages the headers of the images, renders
// windows of images, and compares the key table with std::map. Errors that a caller can name are fine. Anything else
// ends the program: a sanitizer's finding, another exception, bytes handed out that are not those of their checksum.
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <random>
#include <stdexcept>
#include <system_error>

#include "batch_reader.h"
#include "crc32c.h"
#include "image_header.h"
#include "key_table.h"
#include "order.h"
#include "render.h"
#include "shard_reader.h"
#include "shard_writer.h"

using namespace discl;
using Random = std::mt19937_64;

static uint64_t below(Random& random, uint64_t end) { return end ? random() % end : 0; }

static void check(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "broken: %s\n", what);
    std::abort();
}

// The errors that Python turns into OSError, RuntimeError, ValueError and IndexError; no bad_alloc, no length_error.
template <class Call>
static bool refused(Call&& call) {
    try {
        call();
        return false;
    } catch (const std::system_error&) {
    } catch (const std::out_of_range&) {
    } catch (const std::invalid_argument&) {
    } catch (const std::runtime_error&) {
    }
    return true;
}

static std::string slurp(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

static void spill(const std::string& path, const std::string& bytes) {
    std::ofstream(path, std::ios::binary).write(bytes.data(), std::streamsize(bytes.size()));
}

static const uint64_t absurd[] = {0, 1, 511, 512, 513, UINT32_MAX, uint64_t{1} << 33, uint64_t{1} << 63, UINT64_MAX};

static void damage_once(std::string& bytes, Random& random) {
    const uint64_t at = below(random, bytes.size()), rest = bytes.size() - at;
    switch (random() % 6) {
        case 0: if (rest) bytes[at] = char(bytes[at] ^ char(1 << random() % 8)); break;
        case 1: bytes.resize(at); break;
        case 2: bytes.replace(at, below(random, rest), below(random, 600), char(random())); break;
        case 3: bytes.insert(at, bytes, below(random, bytes.size()), below(random, 2000)); break;
        case 4: bytes.erase(at, below(random, rest)); break;
        case 5: {
            const uint64_t number = absurd[random() % std::size(absurd)];
            const std::string text = random() % 2 ? std::string(reinterpret_cast<const char*>(&number), 8)
                                                  : std::string("77777777777").substr(random() % 11);
            bytes.replace(at, std::min<uint64_t>(rest, text.size()), text);
        }
    }
}

static std::string damaged(std::string bytes, Random& random) {
    for (uint64_t n = random() % 3 + 1; n; --n) damage_once(bytes, random);
    return bytes;
}

static std::string noise(Random& random, size_t bytes) {
    std::string out(bytes, '\0');
    for (char& byte : out) byte = char(random());
    return out;
}

static void append(ShardWriter& writer, uint64_t number, Random& random) {
    char key[33];
    std::snprintf(key, sizeof key, "%032llx", static_cast<unsigned long long>(number));
    const bool bare = number % 3 == 2;
    const std::string image = noise(random, bare ? 0 : random() % 6000 + 1), row = "{\"n\":1}", vector = noise(random, 8);
    const auto kept = std::make_shared<const std::string>(image);
    const float floats[] = {1, -0.5, 1e-6f, 1e6f};
    Sample sample{key, bare ? "" : "jpg", image, 1, row, vector, {}};
    if (random() % 2) sample.image = *kept, sample.owner = kept;
    if (random() % 2) sample.embedding = {}, sample.floats = {floats, 4};
    while (!writer.append(sample)) writer.wait_for_room();
}

// A record whose checksum fits, with an absurd number in one of its fields.
static std::string forged_record(std::string journal, Random& random) {
    constexpr size_t covered = offsetof(RecordHeader, row_bytes);
    size_t at = sizeof(JournalHeader);
    RecordHeader header;
    for (uint64_t skipped = random() % 6;; --skipped) {
        std::memcpy(&header, journal.data() + at, sizeof header);
        if (!skipped) break;
        at += sizeof header + header.row_bytes + header.embedding_bytes;
    }
    const uint64_t payload = uint64_t{header.row_bytes} + header.embedding_bytes;
    const uint64_t number = random() % 2 ? absurd[random() % std::size(absurd)] : random() % 5000;
    const size_t field = covered + 4 * below(random, (sizeof header - covered) / 4 - 1);
    std::memcpy(reinterpret_cast<char*>(&header) + field, &number, random() % 2 ? 4 : 8);
    header.crc = crc32c({reinterpret_cast<const char*>(&header) + covered, sizeof header - covered});
    header.crc = crc32c(std::string_view(journal).substr(at + sizeof header, payload), header.crc);
    std::memcpy(journal.data() + at, &header, sizeof header);
    return journal;
}

// A tar whose first member has a strange name, size or type under a checksum that fits.
static std::string forged_member(std::string tar, Random& random) {
    static const char* names[] = {"../../etc/passwd", "/etc/passwd", "\xff\xfe.jpg", "", "a/../b.jpg", "con.jpg"};
    static const char* sizes[] = {"77777777777", "00000000000", "-0000000001", "\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"};
    const char* name = names[random() % std::size(names)];
    if (random() % 2) std::memset(&tar[0], 0, 100), std::memcpy(&tar[0], name, std::strlen(name));
    if (random() % 2) std::memcpy(&tar[124], sizes[random() % std::size(sizes)], 11);
    if (random() % 2) tar[156] = "0123456xgLKS"[random() % 12];
    if (random() % 4 == 0) std::memset(&tar[0], 'n', 100);
    std::memset(&tar[148], ' ', 8);
    unsigned sum = 0;
    for (size_t i = 0; i < tar_block; ++i) sum += uint8_t(tar[i]);
    std::snprintf(&tar[148], 8, "%06o", sum);
    return tar;
}

struct Shard {
    std::string tar, journal;  // paths
};

static void use_damaged_pair(const Shard& shard, Random& random) {
    refused([&] {
        ShardWriter writer(shard.tar, shard.journal, {2, 10});
        const uint64_t found = writer.samples();
        check(writer.records().size() == found, "records of a recovered shard");
        append(writer, 1000, random);
        check(writer.records().size() == found + 1, "records after an append");
        writer.finish();
        check(writer.places().size() == found + 1, "places after an append");
        check(crc32c(slurp(shard.tar)) == writer.tar_crc(), "the sum of the whole tar");
    });
}

static void read_damaged_tar(const std::string& path, Random& random) {
    refused([&] {
        const ShardReader reader(path);
        for (const Member& member : reader.members()) {
            check(member.offset <= reader.size() && member.length <= reader.size() - member.offset, "a member's place");
            reader.check_bounds(member.offset, member.length);
        }
    });
    const ShardReader reader(path);
    BatchReader batches(2, 1);
    std::vector<Place> places;
    for (int n = 0; n < 8; ++n) {
        const uint64_t offset = random() % 4 ? below(random, reader.size() + 2) : random();
        const uint64_t length = random() % 4 ? below(random, 4000) : random();
        std::string out(std::min<uint64_t>(length, reader.size()), '\0');
        const auto crc = uint32_t(random());
        const auto read = [&] {
            reader.check_bounds(offset, length);
            reader.read(offset, out.data(), length, crc);
        };
        check(refused(read) || crc32c(out) == crc, "a read");
        places.push_back({uint32_t(random() % 2), crc, offset, length});
    }
    const auto batch = batches.submit({path, path + ".none"}, places);
    batch->wait();
    for (size_t i = 0; i < batch->size(); ++i) {
        const Image& image = (*batch)[i];
        check(!image.error.empty() || crc32c(image.bytes) == places[i].crc, "an image of a batch");
    }
}

static void read_damaged_headers(const std::vector<std::string>& images, Random& random) {
    for (const std::string& image : images) {
        const std::string bytes = damaged(image.substr(0, random() % 4 ? 700 : image.size()), random);
        const std::unique_ptr<char[]> exact(new char[bytes.size()]);  // so that a byte too far is seen
        bytes.copy(exact.get(), bytes.size());
        read_image_header({exact.get(), bytes.size()});
    }
}

// More than may be waiting at once, with groups, flushes and questions in between: for the thread sanitizer.
static void write_much(const std::string& folder, Random& random) {
    const std::string image = noise(random, 700'000), row = "{}";
    std::remove((folder + "/much.journal").c_str());
    ShardWriter writer(folder + "/much.tar", folder + "/much.journal", {3, 0.001});
    for (int n = 0; n < 40; ++n) {
        const auto kept = std::make_shared<const std::string>(image);
        const Sample sample{"much", "jpg", *kept, 1, row, row, random() % 2 ? Owner(kept) : Owner()};
        while (!writer.append(sample)) writer.wait_for_room();
        check(writer.synced_samples() <= writer.samples(), "what is synced was appended");
        if (random() % 10 == 0) writer.flush(), check(writer.synced_samples() == writer.samples(), "a flush");
    }
    random() % 2 ? writer.finish() : writer.close();
    check(writer.samples() == 40, "all were appended");
}

static void use_keys(Random& random) {
    KeyTable table;
    std::map<Key, uint64_t> twin;
    if (random() % 2) table.reserve(random() % 3000);
    for (int n = 0; n < 2000; ++n) {
        const Key key{random() % 3 ? random() % 50 : 0, random() % 100};
        check(table.add(key) == twin.emplace(key, twin.size()).second, "adding a key");
    }
    for (const auto& [key, number] : twin) check(table.find(key) == number && table[number] == key, "finding a key");
    check(table.size() == twin.size() && table.find({99, 99}) == KeyTable::none, "a key that is not there");
}

// Odd sizes, thin windows and images that end where their memory does.
static void render_windows(Random& random) {
    const size_t channels = random() % 2 ? 3 : 1;
    const View view{int(1 + random() % 20), Filter(random() % 3), std::vector<float>(channels, 128),
                    std::vector<float>(channels, 1.0f / 64)};
    std::vector<std::unique_ptr<uint8_t[]>> images;
    std::vector<Picture> pictures;
    for (uint64_t n = random() % 5; n; --n) {
        const auto width = int(1 + random() % 40), height = int(1 + random() % 40);
        const size_t bytes = size_t(width) * size_t(height) * channels;
        images.emplace_back(new uint8_t[bytes]);
        for (size_t i = 0; i < bytes; ++i) images.back()[i] = uint8_t(random());
        const double left = double(below(random, 100)) / 100, top = double(below(random, 100)) / 100;
        pictures.push_back({images.back().get(), width, height, left, top,
                            left + (1 - left) * double(1 + random() % 100) / 100, random() % 2 ? 1 : top + 1e-6,
                            bool(random() % 2)});
    }
    std::vector<float> out(pictures.size() * channels * size_t(view.size) * size_t(view.size), 99);
    render(view, pictures, out.data(), 3);
    for (const float value : out) check(value >= -2 && value <= 2, "a rendered value");
}

static void draw_orders(Random& random) {
    const std::vector<int64_t> ids{5, 3, 9, 1};
    const std::vector<float> weights{0, 1, 0, 2, 0, 1e-30f, 0, 0, 0, 3};
    Pool even, heavy;
    even.append({nullptr, nullptr, int64_t(random() % 100), int64_t(random() % 5), below(random, 40)});
    even.append({ids.data(), nullptr, 0, 0, ids.size()});
    even.quota = below(random, 200);
    heavy.append({ids.data(), nullptr, 0, 0, ids.size()});
    heavy.quota = below(random, 50);
    heavy.weights = weights.data();
    heavy.weight_count = weights.size();
    const Order order({even, heavy}, random(), uint32_t(random()));
    const uint64_t world = random() % 4 + 1;
    const Slice slice{below(random, order.total() + 2), random() % 300, random() % world, world};
    std::vector<int64_t> out(order.length(slice));
    order.fill(slice, out.data());
}

// In vectors of every width that this CPU has, and without: the same numbers, each in its range.
static void compute_lanes(Random& random) {
    PermutationLanes permutations;
    StrataLanes strata(random(), uint32_t(random()));
    Words index, pass, number, totals;
    const bool any_quota = random() % 4 == 0;
    for (size_t j = 0; j < lanes; ++j) {
        const uint64_t n = 1 + below(random, Permutation::largest >> random() % 62);
        permutations.set(j, Permutation(n, random(), uint32_t(random()), uint32_t(random())));
        index[j] = random() % 4 ? below(random, n) : n - 1;
        pass[j] = random() % 2 ? 0 : random();
        const uint64_t quota = 1 + below(random, uint64_t{1} << random() % (any_quota ? 62 : 31));
        totals[j] = 1 + below(random, uint64_t{1} << random() % 63);
        strata.set(j, Strata(random() % 1000, totals[j], quota));
        number[j] = random() % 4 ? below(random, quota) : quota - 1;
    }
    const size_t count = random() % (lanes + 1);
    Words place = index, unit{};
    permutations.permute(place.data(), pass.data(), count, Vectors::none);
    strata.draw(number.data(), unit.data(), count, Vectors::none);
    for (size_t j = 0; j < count; ++j)
        check(place[j] < permutations.n[j] && unit[j] < totals[j], "a draw leaves its range");
    for (const Vectors vectors : {Vectors::avx2, Vectors::avx512}) {
        if (vectors > widest_vectors()) continue;
        Words same_place = index, same_unit{};
        permutations.permute(same_place.data(), pass.data(), count, vectors);
        strata.draw(number.data(), same_unit.data(), count, vectors);
        check(same_place == place && same_unit == unit, "a draw depends on the width of vectors");
    }
}

int main(int argc, char** argv) {
    if (argc < 4) return 2;
    const uint64_t seed = std::strtoull(argv[1], nullptr, 10), rounds = std::strtoull(argv[2], nullptr, 10);
    std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
    std::fflush(stdout);
    Random random(seed);
    const Shard shard{std::string(argv[3]) + "/0.tar", std::string(argv[3]) + "/0.journal"};
    {
        ShardWriter writer(shard.tar, shard.journal, {2, 10});
        for (uint64_t n = 0; n < 6; ++n) append(writer, n, random);
        writer.finish();
    }
    const std::string tar = slurp(shard.tar), journal = slurp(shard.journal);
    std::vector<std::string> images;
    for (int n = 4; n < argc; ++n) images.push_back(slurp(argv[n]));
    for (uint64_t round = 0; round < rounds; ++round) {
        spill(shard.tar, random() % 2 ? tar : random() % 4 ? damaged(tar, random) : forged_member(tar, random));
        spill(shard.journal, random() % 2   ? journal
                             : random() % 2 ? damaged(journal, random)
                                            : forged_record(journal, random));
        read_damaged_tar(shard.tar, random);
        use_damaged_pair(shard, random);
        read_damaged_headers(images, random);
        draw_orders(random);
        compute_lanes(random);
        render_windows(random);
        if (round % 16 == 0) use_keys(random);
        if (round % 100 == 0) write_much(argv[3], random);
    }
    std::printf("%llu rounds\n", static_cast<unsigned long long>(rounds));
}
